"""Keypoints of a dataset: read with their half pixel, moved with their pixels, and left out with a sentence."""

import json

import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.data.checks.preflight import preflight
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.synthetic.drawing import OUTLINES, SYMMETRY, silhouette
from boxwright.data.synthetic.shapes import SKELETON, ShapesConfig, draw_shapes, write_shapes
from boxwright.data.transforms import HorizontalFlip, Sample, ScaleJitter, resize_sample
from boxwright.ops.image import ResizeRule
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, GroundTruth, Skeleton, Targets
from boxwright.training.prepare import open_checked

EYES = Skeleton(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))
POINTS = [10, 20, 2, 6, 12, 1, 0, 0, 0]


@pytest.fixture
def folder(tmp_path):
    """Writes a COCO folder with one image and one face, whose row and category are changed."""

    def write(category=None, **row):
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "train" / "a.png")
        face = {"id": 3, "name": "face", "keypoints": list(EYES.names), "skeleton": [[1, 2], [1, 3]]}
        one = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 4, 20, 22], "iscrowd": 0, "keypoints": POINTS}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
            "annotations": [one | row],
            "categories": [face | (category or {})],
        }
        (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(content))
        return open_folder(tmp_path)

    return write


def sample():
    points = torch.tensor([[[10.0, 20, 2], [6, 12, 1], [0, 0, 0]]])
    return Sample(torch.zeros(3, 30, 40, dtype=torch.uint8), GroundTruth.of([[2, 4, 22, 26]], [0], keypoints=points))


def test_coco_keypoints_are_read_half_a_pixel_on(folder):
    data = folder()
    assert data.classes.skeleton == EYES
    images = DetectionDataset(data.splits["train"], ResizeRule("none"), num_keypoints=3, cache=False)
    expected = torch.tensor([[[10.5, 20.5, 2], [6.5, 12.5, 1], [0, 0, 0]]])
    assert torch.equal(images.base(0).objects.keypoints, expected)


@pytest.mark.parametrize("wrong", [[1, 2, 2], [10, 20, 3, *POINTS[3:]], ["x", 20, 2, *POINTS[3:]], "none"])
def test_damaged_keypoints_are_reported_and_the_box_is_kept(folder, wrong):
    split = folder(keypoints=wrong).splits["train"]
    assert split.records[0].annotations[0].keypoints is None
    (problem,) = split.problems
    assert problem.kind == "bad-keypoints"
    assert "expected 9 numbers" in problem.message


@pytest.mark.parametrize(
    ("category", "note"),
    [
        ({"keypoints": 3}, "is no list of names"),
        ({"keypoints": ["a", "a"]}, "names one twice"),
        ({"skeleton": [[0, 1]]}, "expected two numbers from 1 to 3"),
    ],
)
def test_damaged_names_and_lines_are_noted(folder, category, note):
    assert note in " ".join(folder(category).notes)


def test_a_flip_exchanges_left_and_right_and_twice_is_the_same():
    flip = HorizontalFlip(1.0, EYES.mirrored)
    once = flip(sample())
    assert once.objects.keypoints.tolist() == [[[30, 20, 2], [0, 0, 0], [34, 12, 1]]]
    assert torch.equal(flip(once).objects.keypoints, sample().objects.keypoints)


def test_resizing_moves_points_with_the_box_and_a_point_that_is_cut_off_is_not_learnt():
    larger = resize_sample(sample(), ResizeRule("fixed", height=60, width=80)).objects
    assert larger.keypoints.tolist() == [[[20, 40, 2], [12, 24, 1], [0, 0, 0]]]
    torch.manual_seed(0)
    zoomed = [ScaleJitter(2.0, 2.0, min_visibility=0.0)(sample()).objects for _ in range(20)]
    seen = torch.cat([one.keypoints for one in zoomed])
    assert not seen[seen[..., 2] == 0].any()
    assert 0 < int((seen[..., 2] > 0).sum()) < 2 * len(seen)
    assert (seen[..., 0] <= 40).all()


def test_targets_pad_keypoints_and_give_them_back():
    one = sample().objects
    targets = Targets.of([one, GroundTruth.empty()], at_least=3)
    assert targets.keypoints.shape == (2, 3, 3, 3)
    assert torch.equal(targets.image(0).keypoints, one.keypoints)
    with pytest.raises(ValueError, match=r"expected one number of an object in a batch, got \[3, 5\]"):
        Targets.of([one, GroundTruth.of([[0, 0, 1, 1]], [0], keypoints=torch.zeros(1, 5, 3))])


def test_a_recipe_for_another_number_of_keypoints_says_which_key_to_set(folder, tmp_path):
    def opened():
        recipe = load_recipe("keypoint-rcnn-small")
        open_checked(tmp_path, classes=None, train_split="train", val_split="train", overfit=1, recipe=recipe, log=str)

    folder()
    with pytest.raises(ValueError, match=r"learns 17 keypoints .*has 3 \(nose, left_eye.*num_keypoints=3"):
        opened()
    folder({"keypoints": []})
    with pytest.raises(ValueError, match=r"learns 17 keypoints of an object, but the data has none"):
        opened()


def test_a_shape_has_its_centre_and_corners_and_coco_files_keep_them(tmp_path):
    config = ShapesConfig(size=96)
    write_shapes(tmp_path / "s", 3, 1, "coco", config)
    data = open_folder(tmp_path / "s")
    assert data.classes.skeleton == SKELETON
    images = DetectionDataset(data.splits["train"], ResizeRule("none"), num_keypoints=5, cache=False)
    for index in range(3):
        drawn = draw_shapes(config, 0, index)[1]
        assert torch.equal(images.base(index).objects.keypoints, drawn.keypoints)
        known, boxes = drawn.keypoints[..., 2:] > 0, drawn.boxes[:, None]
        points = drawn.keypoints[..., :2]
        assert ((points >= boxes[..., :2]) & (points <= boxes[..., 2:]) | ~known).all()
        assert (points[~known.expand_as(points)] == 0).all()


@pytest.mark.parametrize("name", OUTLINES)
def test_a_shape_that_is_turned_until_it_looks_the_same_has_the_same_corners(name):
    plain, order = silhouette(name, 100, 5, 1.0).keypoints, SYMMETRY.get(name, 72)
    for turned in (-1, 1, 2):
        same = silhouette(name, 100, 5 + turned * 360 / order, 1.0).keypoints
        assert abs(same[1:] - same[1] - plain[1:] + plain[1]).max() < 4


@pytest.mark.parametrize("degrees", [-20, 0, 13])
@pytest.mark.parametrize("name", OUTLINES)
def test_the_corners_of_a_shape_lie_on_its_edge_on_their_sides_of_the_centre(name, degrees):
    shape = silhouette(name, 100, degrees, 1.1)
    centre, corners = shape.keypoints[0], shape.keypoints[1:]
    for x, y in corners.astype(int):
        around = shape.mask[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        assert around.any()
        assert not around.all()
    slack = 20 if name in ("triangle", "arrow") else 0  # the tip of one is both upper corners; one has a narrow foot
    assert (corners[[0, 3], 0] < centre[0] + slack).all()
    assert (corners[[1, 2], 0] > centre[0] - slack).all()
    assert corners[:2, 1].max() < corners[2:, 1].min()


@pytest.mark.parametrize("name", OUTLINES)
def test_a_mirrored_shape_has_the_corners_with_the_other_names(name):
    one, other = (silhouette(name, 90, degrees, 1.1).keypoints for degrees in (14, -14))
    mirrored = one[list(SKELETON.mirrored)] * [-1, 1]
    assert abs(mirrored - mirrored[0] - other + other[0]).max() < 1


def test_a_keypoint_of_what_another_shape_hides_is_hidden_and_one_outside_the_visible_box_is_not_annotated():
    counts = torch.zeros(3)
    for index in range(30):
        one = draw_shapes(ShapesConfig(size=128, min_objects=4), 0, index)[1]
        counts += torch.bincount(one.keypoints[..., 2].long().flatten(), minlength=3)
    assert counts.min() > 10
    assert counts[2] > 0.6 * counts.sum()


def test_a_checkpoint_keeps_names_and_lines(tmp_path):
    classes = Classes(("face",), (3,), EYES)
    save_checkpoint(Checkpoint(load_recipe("keypoint-rcnn-shapes"), classes, {}), tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").classes.skeleton == EYES


@pytest.mark.parametrize(
    ("points", "kind", "message"),
    [
        (
            [10, 20, 2, 6, 12, 1, 60, 12, 2],
            "keypoint-outside-image",
            "right_eye of the face lies outside its image of 40",
        ),
        ([30, 28, 2, 36, 2, 2, 6, 12, 2], "keypoints-off-box", "2 of the 3 keypoints of the face lie outside its box"),
        ([6, 12, 2, 6, 12, 2, 6, 12, 1], "keypoints-at-one-point", "all 3 keypoints of the face are at one point"),
        ([6, 12, 0, 9, 12, 0, 6, 17, 0], "bad-keypoints", "visibility 0, which means not annotated"),
        ([6, 12, 3, 9, 12, 0, 6, 17, 0], "bad-keypoints", "a visibility of 0, 1 or 2"),
        ([10, 20, 2, 6, 12, 1, 0, 0, 0], "keypoint-never-annotated", "no object of train has the keypoint right_eye"),
        ([0] * 9, "missing-keypoints", "1 of 1 object of train has no annotated keypoint"),
    ],
)
def test_keypoints_that_cannot_be_right_are_found_before_training(folder, points, kind, message):
    report = preflight(folder(keypoints=points))
    (found,) = (one for one in report.findings if one.kind == kind)
    assert message in found.message


def test_a_keypoint_outside_its_image_is_not_learnt_and_keypoints_elsewhere_cost_an_object_all_of_them(folder):
    def kept(points):
        report = preflight(folder(keypoints=points))
        return report.dataset.splits["train"].records[0].annotations[0].keypoints

    assert kept([10, 20, 2, 6, 12, 1, 60, 12, 2]) == ((10.5, 20.5, 2), (6.5, 12.5, 1), (0, 0, 0))
    assert kept([30, 28, 2, 36, 2, 2, 6, 12, 2]) is None
    assert kept([10, 20, 2, 6, 12, 1, 41, 12, 2])[2] == (41.5, 12.5, 2)  # labelling tools round
