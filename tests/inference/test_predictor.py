"""`Detector.predict`: the same detections from every kind of image, in its own pixels, and a sentence otherwise."""

import importlib.util
import inspect
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import load_checkpoint
from boxwright.data.inputs import batches_of_one_shape, image_paths
from boxwright.inference.predictor import Detector, PredictOptions
from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.image import ResizeRule
from boxwright.structures import PaddedDetections


def assert_same(one, other, tolerance=0.0):
    assert len(one) == len(other) > 0
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.boxes, other.boxes, atol=tolerance, rtol=0)
    torch.testing.assert_close(one.scores, other.scores, atol=tolerance / 100, rtol=0)


@pytest.fixture
def folder(tmp_path, images):
    """The three images as files, in the order of their names."""
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture(scope="module")
def expected(detector, images):
    return detector.predict(images)


# ---- kinds of input -------------------------------------------------------------------------------------------------


def test_every_kind_of_image_gives_the_same_detections(detector, images, folder, expected):
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in images]
    kinds = {
        "folder": str(folder),
        "folder path": folder,
        "glob": str(folder / "*.png"),
        "paths": sorted(folder.glob("*.png")),
        "PIL": [Image.fromarray(pixels) for pixels in images],
        "tensors": tensors,
        "tensor batch": torch.stack(tensors),
        "array batch": np.stack(images),
        "mixed": [folder / "0.png", Image.fromarray(images[1]), tensors[2]],
        "generator": (pixels for pixels in images),
    }
    for kind, given in kinds.items():
        found = detector.predict(given)
        assert len(found) == 3, kind
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    assert [one.path for one in detector.predict(folder)] == [str(folder / f"{n}.png") for n in range(3)]
    assert expected[0].path is None


def test_one_image_is_a_list_of_one(detector, images, folder, expected):
    for given in (folder / "1.png", str(folder / "1.png"), images[1], Image.fromarray(images[1])):
        (found,) = detector.predict(given)
        assert_same(found, expected[1], 1e-3)


def test_float_tensors_are_the_same_pixels(detector, images):
    whole = torch.from_numpy(images[0]).permute(2, 0, 1)
    (from_bytes,) = detector.predict(whole, resize=None)
    for shares in (whole / 255, (whole / 255).double(), whole.permute(1, 2, 0).numpy() / 255.0):
        (found,) = detector.predict(shares, resize=None)
        assert_same(found, from_bytes, 0.01)


def test_bytes_and_floats_in_one_call_keep_their_order(detector, images):
    whole = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in images]
    found = detector.predict([whole[0], whole[1] / 255, whole[2]], resize=None)
    for index, one in enumerate(found):
        assert_same(one, detector.predict(whole[index], resize=None)[0], 0.01)


def test_grey_and_transparent_images_become_rgb(detector):
    grey = np.linspace(0, 255, 96 * 128).reshape(96, 128).astype(np.uint8)
    (expected,) = detector.predict(np.repeat(grey[:, :, None], 3, axis=2), score=0.05)
    for images in (grey, Image.fromarray(grey), Image.fromarray(grey).convert("RGBA")):
        assert_same(detector.predict(images, score=0.05)[0], expected)


def test_arrays_need_no_special_memory(detector, images, expected):
    read_only = np.asarray(Image.fromarray(images[0]))
    mirrored = images[0][:, ::-1].copy()[:, ::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detector.predict([read_only, mirrored])
    assert_same(found[0], expected[0], 1e-3)
    assert_same(found[1], expected[0], 1e-3)


def test_nothing_in_nothing_out(detector):
    assert detector.predict([]) == []


# ---- sizes and batches ----------------------------------------------------------------------------------------------


def test_images_of_one_size_are_the_same_alone_and_in_a_batch(detector, images, expected):
    for batch in (1, 2):
        for one, other in zip(detector.predict(images, batch=batch), expected, strict=True):
            assert_same(one, other, 1e-3)


def test_images_of_mixed_sizes_are_nearly_the_same_alone_and_in_a_batch(detector, scene):
    """Padding changes what the borders see, so this is close, not equal."""
    sizes = [(96, 128), (120, 96), (97, 131)]
    images = [scene(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    # without suppression, which turns a small difference into another choice among overlapping boxes
    settings = {"resize": None, "score": 0.0, "nms_iou": 1.0, "max_detections": 5000}
    together = detector.predict(images, **settings)
    assert [one.size_hw for one in together] == sizes
    for image, one in zip(images, together, strict=True):
        (alone,) = detector.predict(image, **settings)
        best = alone.select(torch.arange(10))
        overlaps = pairwise_iou(best.boxes, one.boxes) * (best.labels[:, None] == one.labels)
        assert float((overlaps.amax(1) > 0.5).float().mean()) >= 0.8


def test_stream_reads_only_a_window_ahead(detector, images):
    read = []

    def source():
        for number in range(6):
            read.append(number)
            yield images[number % 3]

    stream = detector.stream(source(), window=2, batch=2)
    first = next(stream)
    assert read == [0, 1, 2, 3]  # one window is detected in, the next is being decoded
    rest = list(stream)
    assert len(rest) == 5
    assert_same(rest[2], first, 1e-3)


def test_a_batch_is_of_one_size_and_type():
    """So no image is padded because of another; the order of arrival does not matter."""
    sizes = [(40, 60), (60, 40), (41, 60), (40, 60), (60, 40), (200, 200)]
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    assert batches_of_one_shape(images, 8) == [[0, 3], [2], [1, 4], [5]]
    assert batches_of_one_shape(images, 1) == [[0], [3], [2], [1], [4], [5]]
    assert batches_of_one_shape(images, 8, 64) == [[0, 1, 2, 3, 4], [5]]  # what each is padded to by itself
    assert batches_of_one_shape([images[0], images[0].float(), images[0]], 8) == [[1], [0, 2]]
    assert batches_of_one_shape([], 8) == []


def test_precision_is_a_switch(checkpoint_file, images, expected):
    """bf16 moves detections a little, and only where it is asked for on a machine that emulates it."""
    half = Detector.load(checkpoint_file, "cpu", precision="bf16")
    assert half.engine.precision == "bf16"
    (found,) = half.predict(images[0], score=0.0)
    best, overlaps = expected[0].select(torch.arange(5)), None
    overlaps = pairwise_iou(best.boxes, found.boxes) * (best.labels[:, None] == found.labels)
    assert bool((overlaps.amax(1) > 0.8).all())
    with pytest.raises(ValueError, match="precision: expected auto, fp32, bf16 or fp16, got 'int8'"):
        Detector.load(checkpoint_file, "cpu", precision="int8")


def test_norms_are_folded_and_nothing_changes(checkpoint_file, images, expected):
    plain = load_checkpoint(checkpoint_file).build()
    detector = Detector.load(checkpoint_file, "cpu")
    assert detector.model.state_dict().keys() == plain.state_dict().keys()  # as it was trained
    kinds = [{type(part).__name__ for part in model.modules()} for model in (plain, detector.engine.model)]
    assert any("BatchNorm" in kind for kind in kinds[0])
    assert not any("BatchNorm" in kind for kind in kinds[1])
    detector.engine.model = plain
    for one, other in zip(detector.predict(images), expected, strict=True):
        assert_same(one, other, 1e-2)


def test_what_a_gpu_does_beside_its_next_batch_changes_nothing(checkpoint_file, images, expected, monkeypatch):
    """The thread that brings detections back to their images, on a CPU that calls itself a GPU."""
    detector = Detector.load(checkpoint_file, "cpu")
    detector.device = torch.device("cuda")
    for batch in (1, 2):  # three batches are under way at a time, or all
        for one, other in zip(detector.predict([*images, images[0]], batch=batch), expected, strict=False):
            assert_same(one, other, 1e-2)
    monkeypatch.setattr(PaddedDetections, "restore", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.predict(images)


@pytest.mark.slow
def test_a_compiled_detector_finds_the_same(checkpoint_file, scene):
    images = [scene(height, width, seed) for seed, (height, width) in enumerate([(96, 128), (120, 96), (97, 131)])]
    compiled = Detector.load(checkpoint_file, "cpu", compile=True)
    plain = Detector.load(checkpoint_file, "cpu")
    plain.engine.bucket, plain.engine.fixed_batch = compiled.engine.bucket, compiled.engine.fixed_batch
    for one, other in zip(compiled.predict(images, batch=2), plain.predict(images, batch=2), strict=True):
        assert_same(one, other, 1e-2)


def test_resize_rules(detector, images, expected):
    for one, other in zip(detector.predict(images, resize=detector.resize), expected, strict=True):
        assert_same(one, other)
    # 96 x 128 is what the recipe resizes to, so as it is means the same
    for one, other in zip(detector.predict(images, resize=None), expected, strict=True):
        assert_same(one, other)
    (small,) = detector.predict(images[0], resize=ResizeRule("fixed", height=64, width=160))
    assert small.size_hw == (96, 128)
    assert not torch.equal(small.scores[:5], expected[0].scores[:5])


class FixedModel:
    """Finds one box at a known place of the network's image."""

    def __init__(self):
        self.shapes = []

    def __call__(self, images, targets, proposals):
        self.shapes.append(tuple(images.pixels.shape))
        return images

    def detect_padded(self, images, settings):
        count = len(images)
        box = torch.tensor([[[10.0, 20.0, 30.0, 60.0]]]).expand(count, 1, 4)
        ones = torch.ones(count, dtype=torch.int64)
        return PaddedDetections(box, torch.full((count, 1), 0.9), torch.ones(count, 1).long(), ones)


@pytest.mark.parametrize(
    ("rule", "shape", "box"),
    [
        (None, (200, 240), [10, 20, 30, 60]),
        (ResizeRule("short_side", size=100), (100, 120), [20, 40, 60, 120]),
        (ResizeRule("fixed", height=100, width=60), (100, 60), [40, 40, 120, 120]),
        (ResizeRule("letterbox", height=100, width=300), (100, 300), [20, 40, 60, 120]),
    ],
)
def test_boxes_come_back_in_the_pixels_of_the_image(checkpoint_file, rule, shape, box):
    detector = Detector.load(checkpoint_file, "cpu")
    detector.engine.model = FixedModel()
    (found,) = detector.predict(np.zeros((200, 240, 3), np.uint8), resize=rule)
    assert detector.engine.model.shapes == [(1, 3, *shape)]
    assert found.boxes.tolist() == [box]
    assert found.names == ["dot"]


def test_detections_stay_inside_the_image(detector, scene):
    for height, width in ((50, 131), (33, 17), (200, 90), (1, 1)):
        (found,) = detector.predict(scene(height, width, 5), score=0.0)
        assert found.size_hw == (height, width)
        limits = torch.tensor([width, height, width, height])
        assert bool(((found.boxes >= 0) & (found.boxes <= limits)).all())
        assert bool((found.boxes[:, 2:] > found.boxes[:, :2]).all())


# ---- what is reported -----------------------------------------------------------------------------------------------


def test_the_score_filters(detector, images, expected):
    (everything,) = detector.predict(images[0], score=0.0, max_detections=2000)
    assert len(everything) > len(expected[0])
    assert float(expected[0].scores.min()) > 0.6  # the checkpoint's own threshold
    middle = float(everything.scores[3])
    (few,) = detector.predict(images[0], score=middle)
    assert_same(few, everything.above(middle + 1e-6))
    assert bool((everything.scores[:-1] >= everything.scores[1:]).all())


def test_limit_and_overlap(detector, images):
    (few,) = detector.predict(images[0], score=0.0, max_detections=4)
    assert len(few) == 4
    strict, loose = (detector.predict(images[0], nms_iou=iou, max_detections=1000)[0] for iou in (0.1, 0.9))
    assert len(strict) < len(loose)
    for label in strict.labels.unique():
        boxes = strict.boxes[strict.labels == label]
        assert float(pairwise_iou(boxes, boxes).fill_diagonal_(0).max()) < 0.1 + 1e-4


def test_to_coco_gives_the_users_ids(expected):
    rows = expected[0].to_coco("img 1")
    assert len(rows) == len(expected[0])
    for row, box, label in zip(rows, expected[0].boxes.tolist(), expected[0].labels.tolist(), strict=True):
        assert row["image_id"] == "img 1"
        assert row["category_id"] == (3, 7, 1)[label]
        assert row["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.skipif(importlib.util.find_spec("supervision") is None, reason="supervision is not installed")
def test_to_supervision(expected):
    converted = expected[0].to_supervision()
    assert converted.xyxy.tolist() == expected[0].boxes.tolist()
    assert list(converted.data["class_name"]) == expected[0].names


@pytest.mark.skipif(importlib.util.find_spec("supervision") is not None, reason="supervision is installed")
def test_to_supervision_says_what_is_missing(expected):
    with pytest.raises(ImportError, match="needs the package supervision"):
        expected[0].to_supervision()


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.full((3, 8, 8), 2.0), r"float pixels: expected \[0, 1\], got \[2, 2\]"),
        (torch.full((3, 8, 8), -0.1), r"float pixels: expected \[0, 1\]"),
        (torch.full((3, 8, 8), float("nan")), r"float pixels: expected \[0, 1\], got \[nan, nan\]"),
        (np.full((8, 8, 3), 200.0), "give uint8 for 0 to 255"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"expected \(3, H, W\) RGB, got \(8, 8, 3\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"expected \(3, H, W\) RGB, got \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"expected \(H, W, 3\) RGB or \(H, W\), got \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.int32), "expected uint8, or float"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "expected uint8, or float"),
        (np.zeros((0, 5, 3), np.uint8), "0 x 5 pixels"),
        ([5], "expected a path, PIL image, array or tensor, got int"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image_is_said(detector, images, sentence):
    with pytest.raises(ValueError, match=sentence):
        detector.predict(images)


def test_paths_that_lead_nowhere_are_said(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="no images in this folder"):
        detector.predict(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg: no such image"):
        detector.predict(tmp_path / "missing.jpg")
    with pytest.raises(FileNotFoundError, match="no such image, folder or pattern"):
        detector.predict(str(tmp_path / "*.jpg"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg: not an image"):
        detector.predict(tmp_path)


def test_folders_are_listed_by_name_without_their_subfolders(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.txt", "sub/d.png", "odd [1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in image_paths(tmp_path)] == ["a.jpeg", "b.PNG", "odd [1].png"]
    assert image_paths(tmp_path / "odd [1].png") == [tmp_path / "odd [1].png"]
    assert [path.name for path in image_paths(str(tmp_path / "**" / "*.png"))] == ["odd [1].png", "d.png"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda" if not torch.cuda.is_available() else "nonsense"])
def test_a_device_that_is_not_there(checkpoint_file, device):
    with pytest.raises(ValueError, match=f"device '?{device}'?: "):
        Detector.load(checkpoint_file, device)


def test_the_one_list_of_options_is_that_of_the_defaults(detector, images):
    """`predict` and `stream` pass their keywords on: what `PredictOptions` lists, and nothing else."""
    parameters = inspect.signature(Detector.try_stream).parameters
    assert set(PredictOptions.__annotations__) == set(parameters) - {"self", "images", "keep", "listed", "use"}
    for call in (detector.predict, lambda *given, **options: list(detector.stream(*given, **options))):
        with pytest.raises(TypeError, match="unexpected keyword argument 'scor'"):
            call(images, scor=0.5)


def test_batch_of_nothing(detector, images):
    with pytest.raises(ValueError, match="batch: expected at least 1, got 0"):
        detector.predict(images, batch=0)


class TestWrongCheckpoints:
    def refused(self, path):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            Detector.load(path, "cpu")
        text = str(caught.value)
        assert str(path) in text
        assert "\n" not in text
        return text

    def test_missing_and_folder(self, tmp_path):
        assert "no such file" in self.refused(tmp_path / "none.pt")
        assert "weights/best.pt" in self.refused(tmp_path)

    @pytest.mark.filterwarnings("ignore")
    def test_files_of_something_else(self, tmp_path, checkpoint_file):
        path = tmp_path / "other.pt"
        whole = checkpoint_file.read_bytes()
        rng = np.random.default_rng(0)
        contents = [b"", b"hello\n", b'{"a": 1}', b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", whole[: len(whole) // 2]]
        # random bytes, bare and after a pickle header, reach every corner of the unpickler
        contents += [head + rng.bytes(size) for head in (b"", b"\x80\x02") for size in (1, 3, 9, 30) for _ in range(25)]
        for content in contents:
            path.write_bytes(content)
            assert "is not a boxwright checkpoint" in self.refused(path)

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            ({"weight": torch.zeros(2)}, "nor one of another library"),
            ([1, 2], "nor one of another library"),
            (torch.zeros(2), "nor one of another library"),
            (torch.nn.Linear(2, 2), "not a file of plain tensors"),
            ({"format": "boxwright checkpoint"}, "checkpoint version None"),
            ({"format": "boxwright checkpoint", "version": 99}, "checkpoint version 99"),
        ],
    )
    def test_torch_files_of_something_else(self, tmp_path, data, sentence):
        torch.save(data, tmp_path / "other.pt")
        assert sentence in self.refused(tmp_path / "other.pt")

    def test_the_right_one_loads(self, checkpoint_file):
        assert load_checkpoint(checkpoint_file).classes.ids == (3, 7, 1)
