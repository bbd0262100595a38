import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.structures import (
    Classes,
    CroppedMask,
    Detections,
    GroundTruth,
    ImageBatch,
    PaddedDetections,
    Targets,
)

SQUARE = [0.0, 0.0, 4.0, 4.0]


def ground_truth(count, label=0, masks=False):
    rows = [[float(n), 0.0, n + 2.0, 3.0] for n in range(count)]
    bitmaps = [CroppedMask(n, 0, torch.ones(3, 2, dtype=torch.bool)) for n in range(count)] if masks else None
    return GroundTruth.of(rows, [label] * count, masks=bitmaps)


class TestClasses:
    def test_are_numbered_in_order(self):
        assert Classes.named(["cat", "dog"], first_id=1) == Classes(("cat", "dog"), (1, 2))
        assert len(Classes.named("abc")) == 3

    @pytest.mark.parametrize(
        ("names", "ids", "message"),
        [
            (("a", "b"), (1,), "2 class names but 1 class ids"),
            ((), (), "at least one class"),
            (("a", "a"), (1, 2), "class names repeat"),
            (("a", "b"), (7, 7), "class ids repeat"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, names, ids, message):
        with pytest.raises(ValueError, match=message):
            Classes(names, ids)


class TestGroundTruth:
    def test_of_nothing_is_empty_and_of_the_right_types(self):
        for empty in (GroundTruth.empty(), GroundTruth.of([], [])):
            assert len(empty) == 0
            assert empty.boxes.shape == (0, 4)
            assert (empty.labels.dtype, empty.ignore.dtype) == (torch.int64, torch.bool)

    def test_is_drawn_with_its_masks(self):
        truth = ground_truth(1, masks=True)
        image = torch.zeros(3, 12, 16, dtype=torch.uint8)
        assert np.asarray(truth.draw(image, classes=Classes.named(["cat"]))).any()
        assert truth.mask(0) is truth.masks[0]
        with pytest.raises(ValueError, match="no masks"):
            ground_truth(1).mask(0)

    @pytest.mark.parametrize(
        "box",
        [
            [4.0, 0.0, 0.0, 4.0],
            [0.0, 4.0, 4.0, 0.0],
            [0.0, 0.0, 0.0, 4.0],
            [0.0, 0.0, 4.0, 0.0],
            [0.0, 0.0, float("nan"), 4.0],
            [0.0, 0.0, float("inf"), 4.0],
        ],
    )
    def test_names_the_first_box_that_is_none(self, box):
        with pytest.raises(ValueError, match=r"box 1 .*expected finite x1 < x2 and y1 < y2"):
            GroundTruth.of([SQUARE, box, box], [0, 0, 0])

    def test_refuses_negative_labels_since_background_is_no_class(self):
        with pytest.raises(ValueError, match=r"expected \[0, K\), got -1"):
            GroundTruth.of([SQUARE], [-1])

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("boxes", torch.zeros(1, 5), r"expected \(G, 4\), got \(1, 5\)"),
            ("boxes", torch.tensor([SQUARE], dtype=torch.float64), "expected float32, got torch.float64"),
            ("labels", torch.zeros(2, dtype=torch.int64), r"labels: expected \(1,\), got \(2,\)"),
            ("labels", torch.zeros(1), "labels: expected int64"),
            ("ignore", torch.zeros(0, dtype=torch.bool), r"ignore: expected \(1,\)"),
            ("ignore", torch.zeros(1), "ignore: expected bool"),
            ("masks", (), "masks: expected 1, got 0"),
        ],
    )
    def test_says_what_it_expected_and_what_it_got(self, field, value, message):
        good = {
            "boxes": torch.tensor([SQUARE]),
            "labels": torch.zeros(1, dtype=torch.int64),
            "ignore": torch.zeros(1, dtype=torch.bool),
            "masks": None,
        }
        assert len(GroundTruth(**good)) == 1
        with pytest.raises(ValueError, match=message):
            GroundTruth(**{**good, field: value})

    @pytest.mark.parametrize(
        ("index", "rows"),
        [
            (slice(1, None), [1, 2]),
            (slice(None, None, -2), [2, 0]),
            ([False, True, True], [1, 2]),
            (torch.tensor([2, 0, 2], dtype=torch.int32), [2, 0, 2]),
            (np.array([-1]), [2]),
            ([], []),
        ],
    )
    def test_of_several_objects_is_taken_as_of_a_tensor(self, index, rows):
        masks = [CroppedMask(n, 0, torch.ones(3, 2, dtype=torch.bool)) for n in range(3)]
        truth = GroundTruth.of([[n, 0, n + 2, 3] for n in range(3)], [4, 5, 6], [False, True, False], masks)
        taken = truth[index]
        assert taken.boxes.tolist() == truth.boxes[rows].tolist()
        assert (taken.labels.tolist(), taken.ignore.tolist()) == ([4 + n for n in rows], [n == 1 for n in rows])
        assert [mask.x for mask in taken.masks] == rows

    def test_gives_its_objects_one_by_one(self):
        truth = GroundTruth.of([[0, 1, 2, 3], [4, 5, 6, 7]], [8, 9], [False, True])
        first, second = truth
        assert (first.box, first.label, first.ignore, first.mask) == ((0.0, 1.0, 2.0, 3.0), 8, False, None)
        assert truth[-1] == truth[torch.tensor(1)] == second
        assert ground_truth(2, masks=True)[1].mask.x == 1
        assert list(GroundTruth.empty()) == []
        assert len(GroundTruth.empty()[:5]) == 0

    @pytest.mark.parametrize(
        "index", [2, -3, [0, 2], torch.tensor([-3]), [True], 0.5, torch.tensor([0.5]), [[0]], torch.ones(2).byte()]
    )
    def test_refuses_an_index_of_what_is_not_there(self, index):
        with pytest.raises(IndexError, match=r"ground truth: (no number|expected a number, a slice, 2 flags)"):
            ground_truth(2)[index]


class TestTargets:
    def test_pad_to_the_fullest_image_and_give_each_back(self):
        ground_truths = [ground_truth(2, 1), GroundTruth.empty(), ground_truth(3, 2)]
        targets = Targets.of(ground_truths)
        assert targets.boxes.shape == (3, 3, 4)
        assert targets.valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]
        for index, one in enumerate(ground_truths):
            back = targets.image(index)
            assert torch.equal(back.boxes, one.boxes)
            assert torch.equal(back.labels, one.labels)
            assert torch.equal(back.ignore, one.ignore)

    def test_of_images_without_objects_have_no_rows(self):
        targets = Targets.of([GroundTruth.empty(), GroundTruth.empty()])
        assert targets.boxes.shape == (2, 0, 4)
        assert targets.labels.shape == targets.valid.shape == (2, 0)

    def test_keep_ignore_flags(self):
        targets = Targets.of([GroundTruth.of([SQUARE, SQUARE], [0, 0], [False, True]), GroundTruth.empty()])
        assert targets.ignore.tolist() == [[False, True], [False, False]]

    def test_masks_stay_with_their_image(self):
        targets = Targets.of([ground_truth(2, masks=True), GroundTruth.empty(), ground_truth(1, masks=True)])
        assert targets.masks is not None
        assert targets.masks.nonempty.tolist() == [[True, True], [False, False], [True, False]]
        for index, one in enumerate([ground_truth(2, masks=True), GroundTruth.empty(), ground_truth(1, masks=True)]):
            back = targets.image(index).masks
            assert back is not None
            assert len(back) == len(one)
            for mask, before in zip(back, one.masks or (), strict=True):
                assert (mask.x, mask.y) == (before.x, before.y)
                assert torch.equal(mask.bitmap, before.bitmap)

    def test_an_object_whose_mask_is_not_known_has_an_empty_bitmap(self):
        hidden = CroppedMask(3, 3, torch.zeros(1, 1, dtype=torch.bool))
        targets = Targets.of([GroundTruth.of([SQUARE], [0], masks=[hidden])])
        assert not targets.masks.nonempty.any()
        assert not targets.image(0).masks[0].bitmap.any()

    def test_resized_targets_keep_box_and_mask_together(self):
        bitmap = torch.tensor([[1, 0], [1, 1]], dtype=torch.bool)
        targets = Targets.of([GroundTruth.of([[2.0, 4.0, 4.0, 6.0]], [0], masks=[CroppedMask(2, 4, bitmap)])])
        larger = targets.scaled(torch.tensor([2.0, 3.0])).image(0)
        assert larger.boxes.tolist() == [[4, 12, 8, 18]]
        assert (larger.masks[0].x, larger.masks[0].y) == (4, 12)
        assert torch.equal(larger.masks[0].bitmap, bitmap.repeat_interleave(3, 0).repeat_interleave(2, 1))

    def test_masks_are_dropped_where_some_image_with_objects_has_none(self):
        assert Targets.of([ground_truth(2, masks=True), ground_truth(1)]).masks is None
        assert Targets.of([GroundTruth.empty()]).masks is None

    def test_move_as_one(self):
        moved = Targets.of([ground_truth(2, masks=True)]).to("meta")
        tensors = (moved.boxes, moved.labels, moved.ignore, moved.valid, *moved.masks)
        assert {t.device.type for t in tensors} == {"meta"}

    def test_of_no_image_and_of_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="at least one image"):
            Targets.of([])
        flags = torch.zeros(1, 2, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"labels: expected \(1, 3\), got \(1, 2\)"):
            Targets(torch.zeros(1, 3, 4), flags.long(), flags, flags)


class TestRotatedBoxes:
    def test_stay_with_their_image_in_a_batch_and_are_resized(self):
        one = GroundTruth.of([[0, 0, 4, 2]], [1], rotated=[[2, 1, 4, 2, 0]])
        targets = Targets.of([one, GroundTruth.empty(), one[[0, 0]]])
        assert targets.rotated.shape == (3, 2, 5)
        assert torch.equal(targets.image(0).rotated, one.rotated)
        assert targets.image(1).rotated.shape == (0, 5)
        resized = targets.scaled(torch.tensor([2.0, 0.5])).to("cpu")
        assert resized.image(2).rotated.tolist() == [[4, 0.5, 8, 1, 0]] * 2
        assert one[0].rotated == (2, 1, 4, 2, 0)

    def test_of_only_some_images_with_objects_are_refused(self):
        with pytest.raises(ValueError, match="in all images with objects, or in none"):
            Targets.of([GroundTruth.of([[0, 0, 4, 2]], [1], rotated=[[2, 1, 4, 2, 0]]), ground_truth(1)])

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([[2.0, 1, 4, 0, 0]], "sides above 0"),
            ([[2.0, 1, 4, 2, 180]], r"degrees in \[-180, 180\)"),
            ([[float("nan"), 1, 4, 2, 0]], "finite"),
            ([[2.0, 1, 4, 2, 0]] * 2, r"expected \(1, 5\), got \(2, 5\)"),
        ],
    )
    def test_that_are_none_are_refused(self, rows, message):
        with pytest.raises(ValueError, match=message):
            GroundTruth.of([[0, 0, 4, 2]], [1], rotated=rows)


class TestImageBatch:
    def test_pads_at_the_right_and_the_bottom(self):
        images = [torch.full((3, 4, 6), 7, dtype=torch.uint8), torch.full((3, 5, 2), 9, dtype=torch.uint8)]
        batch = ImageBatch.of(images)
        assert batch.pixels.shape == (2, 3, 5, 6)
        assert torch.equal(batch.pixels[0, :, :4, :6], images[0])
        assert not batch.pixels[0, :, 4:].any()
        assert not batch.pixels[1, :, :, 2:].any()
        assert batch.sizes_hw.tolist() == batch.original_hw.tolist() == [[4, 6], [5, 2]]

    def test_rounds_up_to_a_multiple(self):
        batch = ImageBatch.of([torch.zeros(3, 33, 64)], multiple_of=32)
        assert batch.pixels.shape == (1, 3, 64, 64)
        assert batch.sizes_hw.tolist() == [[33, 64]]

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "at least one image"),
            ([torch.zeros(1, 4, 4)], r"image 0: expected \(3, H, W\), got \(1, 4, 4\)"),
            ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)], "image 1: torch.uint8 in a batch of"),
            ([torch.zeros(3, 4, 4, dtype=torch.int32)], r"expected uint8 or float in \[0, 1\], got torch.int32"),
        ],
    )
    def test_refuses_what_is_no_batch(self, images, message):
        with pytest.raises(ValueError, match=message):
            ImageBatch.of(images)

    def batch(self):
        images = [torch.full((3, 4, 6), 7, dtype=torch.uint8), torch.full((3, 5, 2), 9, dtype=torch.uint8)]
        return images, ImageBatch.of(images, [(8, 12), (50, 20)], [(0.5, 0.5), (0.1, 0.1)], [(0.0, 1.0), (2.0, 0.0)])

    def test_gives_each_image_back_without_padding(self):
        images, batch = self.batch()
        assert [torch.equal(own, image) for own, image in zip(batch, images, strict=True)] == [True, True]
        assert torch.equal(batch[-1], images[1])
        assert torch.equal(batch[np.int64(0)], batch[torch.tensor(0)])
        with pytest.raises(IndexError, match="images: no number 2, there are 2"):
            batch[2]
        with pytest.raises(TypeError):  # which would compare pixels
            images[0] in batch  # noqa: B015

    @pytest.mark.parametrize("index", [slice(1, None), [1], [False, True], torch.tensor([-1]), np.array([False, True])])
    def test_of_some_images_is_a_batch_with_their_way_back(self, index):
        images, batch = self.batch()
        some = batch[index]
        assert (len(some), some.pixels.shape) == (1, (1, 3, 5, 6))
        assert torch.equal(some[0], images[1])
        assert (some.original_hw.tolist(), some.sizes_hw.tolist()) == ([[50, 20]], [[5, 2]])
        torch.testing.assert_close(some.scale_xy, torch.tensor([[0.1, 0.1]]))
        assert some.offset_xy.tolist() == [[2.0, 0.0]]
        assert len(batch[:0]) == 0

    def test_normalises_and_then_pads_with_zero(self):
        images = [torch.rand(3, 4, 6), torch.rand(3, 5, 2)]
        mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
        normal = ImageBatch.of(images).normalised(mean, std)
        columns = [torch.tensor(values)[:, None, None] for values in (mean, std)]
        for index, image in enumerate(images):
            height, width = image.shape[1:]
            torch.testing.assert_close(normal[index, :, :height, :width], (image - columns[0]) / columns[1])
            assert not normal[index, :, height:].any()
            assert not normal[index, :, :, width:].any()

    def test_uint8_and_float_pixels_mean_the_same(self):
        whole = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        one = ImageBatch.of([whole]).normalised(mean, std)
        torch.testing.assert_close(one, ImageBatch.of([whole / 255]).normalised(mean, std), rtol=1e-5, atol=1e-5)


class TestPaddedDetections:
    def restored(self, box, scale, offset, original_hw):
        padded = PaddedDetections(
            torch.tensor([[box, [0.0] * 4]]),
            torch.tensor([[0.9, 0.0]]),
            torch.tensor([[2, -1]]),
            torch.tensor([1]),
        )
        images = ImageBatch.of([torch.zeros(3, 50, 100)], [original_hw], [scale], [offset])
        return padded.restore(images)

    def test_go_back_to_the_pixels_of_the_original(self):
        (found,) = self.restored([15.0, 20.0, 35.0, 40.0], (0.5, 2.0), (5.0, 10.0), (300, 400))
        assert found.boxes.tolist() == [[20.0, 5.0, 60.0, 15.0]]
        assert found.labels.tolist() == [2]
        assert found.size_hw == (300, 400)

    def test_keypoints_go_back_to_their_own_original(self):
        heatmaps = torch.full((2, 1, 1, 8, 8), -9.0)
        heatmaps[..., 2, 5] = 9.0  # the sixth column and the third row of a box
        padded = PaddedDetections(
            torch.tensor([[[10.0, 20, 26, 36]]] * 2), torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.int64),
            torch.tensor([1, 1]), heatmaps=heatmaps,
        )  # fmt: skip
        images = ImageBatch.of(
            [torch.zeros(3, 50, 50)] * 2, [(50, 50), (100, 25)], [(1, 1), (2, 0.5)], [(0, 0), (4, 6)]
        )
        one, other = (found.keypoints[0, 0, :2] for found in padded.restore(images))
        torch.testing.assert_close(one, torch.tensor([21.0, 25.0]), atol=1, rtol=0)
        torch.testing.assert_close(other, (one - torch.tensor([4.0, 6])) / torch.tensor([2.0, 0.5]))

    def test_end_at_the_border_of_the_original(self):
        (found,) = self.restored([0.0, 0.0, 100.0, 50.0], (1.0, 1.0), (10.0, 20.0), (25, 60))
        assert found.boxes.tolist() == [[0.0, 0.0, 60.0, 25.0]]


class TestDetections:
    def test_keypoints_are_written_from_the_centre_of_a_pixel(self):
        points = torch.tensor([[[1.5, 2.5, 0.75]], [[3.0, 4.0, 0.25]]])
        rows = self.detections(keypoints=points).to_coco(1)
        assert [row["keypoints"] for row in rows] == [[1.0, 2.0, 0.75], [2.5, 3.5, 0.25]]

    def detections(self, **more):
        return Detections(
            torch.tensor([SQUARE, [1.0, 2.0, 5.0, 8.0]]),
            torch.tensor([0.9, 0.4]),
            torch.tensor([1, 0]),
            (10, 20),
            **more,
        )

    def test_give_names_and_the_users_own_ids(self):
        classes = Classes(("cat", "dog"), (17, 3))
        found = self.detections(classes=classes)
        assert found.names == ["dog", "cat"]
        assert found.to_coco(image_id=42) == [
            {"image_id": 42, "category_id": 3, "bbox": [0.0, 0.0, 4.0, 4.0], "score": pytest.approx(0.9)},
            {"image_id": 42, "category_id": 17, "bbox": [1.0, 2.0, 4.0, 6.0], "score": pytest.approx(0.4)},
        ]
        assert self.detections().names == ["1", "0"]

    def test_masks_go_out_as_run_length_codes(self):
        masks = torch.zeros(2, 10, 20, dtype=torch.bool)
        masks[0, 0, 0] = True
        rows = self.detections(masks=masks).to_coco(1)
        assert rows[0]["segmentation"] == {"size": [10, 20], "counts": "01W6"}
        assert rows[1]["segmentation"]["size"] == [10, 20]

    def test_cropped_masks_stand_for_whole_ones(self):
        crops = (CroppedMask(3, 2, torch.ones(4, 5, dtype=torch.bool)), CroppedMask(0, 0, torch.eye(2).bool()))
        cropped = self.detections(masks=crops)
        planes = cropped.whole_masks()
        assert planes.shape == (2, 10, 20)
        assert planes[0].nonzero().amin(0).tolist() == [2, 3]
        assert planes.sum((1, 2)).tolist() == [20, 2]
        whole = self.detections(masks=planes)
        assert whole.to_coco(1) == cropped.to_coco(1)
        assert whole.to_coco(1, polygons=True) == cropped.to_coco(1, polygons=True)
        assert whole.mask(0).x == 3
        assert len(cropped.select(torch.tensor([False, True])).masks) == 1
        with pytest.raises(ValueError, match="masks: expected 2, got 1"):
            self.detections(masks=crops[:1])

    def test_without_masks_there_is_none_to_ask_for(self):
        assert self.detections().whole_masks() is None
        with pytest.raises(ValueError, match="no masks"):
            self.detections().mask(0)

    def test_are_iterated_best_first(self):
        classes = Classes.named(["cat", "dog"])
        masks = torch.zeros(2, 10, 20, dtype=torch.bool)
        masks[1, 3:5, 2:7] = True
        first, second = self.detections(classes=classes, masks=masks)
        assert (first.name, first.label, first.score) == ("dog", 1, pytest.approx(0.9))
        assert (second.name, second.box) == ("cat", (1.0, 2.0, 5.0, 8.0))
        assert (second.mask.x, second.mask.y, tuple(second.mask.bitmap.shape)) == (2, 3, (2, 5))
        assert [one.mask for one in self.detections()] == [None, None]
        assert list(Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (9, 9))) == []

    @pytest.mark.parametrize("masks", ["whole", "cropped"])
    @pytest.mark.parametrize(
        ("index", "rows"),
        [
            (slice(1, None), [1]),
            (slice(None, None, -1), [1, 0]),
            (slice(5, 9), []),
            ([1], [1]),
            ([], []),
            ([True, False], [0]),
            (torch.tensor([False, True]), [1]),
            (torch.tensor([1, 0, 1]), [1, 0, 1]),
            (np.array([False, True]), [1]),
            ([-1], [1]),
        ],
    )
    def test_several_are_taken_as_of_a_tensor(self, index, rows, masks):
        planes = torch.zeros(2, 10, 20, dtype=torch.bool)
        planes[0, :2], planes[1, 5:] = True, True
        crops = tuple(CroppedMask(0, 0, plane).tight() for plane in planes)
        found = self.detections(path="a.jpg", masks=planes if masks == "whole" else crops)
        taken = found[index]
        assert taken.boxes.tolist() == found.boxes[rows].tolist()
        assert taken.labels.tolist() == found.labels[rows].tolist()
        assert taken.whole_masks().tolist() == planes[rows].tolist()
        assert (taken.size_hw, taken.path) == ((10, 20), "a.jpg")

    def test_in_asks_whether_a_field_is_filled(self):
        found = self.detections(masks=torch.ones(2, 10, 20, dtype=torch.bool))
        assert ("masks" in found, "masks" in self.detections()) == (True, False)
        assert ("scores" in found, "masks" in ground_truth(1), "masks" in ground_truth(1, masks=True)) == (True, 0, 1)
        for other in ("dog", 3, found[0]):  # "no" would be taken for an answer
            with pytest.raises(TypeError, match="`in` asks for a field"):
                other in found  # noqa: B015

    def test_one_is_taken_by_its_number(self):
        found = self.detections()
        assert found[found.scores.argmin()].label == 0
        assert (found[0].label, found[1].label, found[-1].label) == (1, 0, 0)
        for index in (2, -3, [2], torch.tensor([0.5, 0.1]), [True], torch.tensor([[True, False]])):
            with pytest.raises(IndexError):
                found[index]

    def test_the_name_of_the_file_is_the_id_of_its_image(self):
        assert self.detections(path="images/0017.jpg").to_coco()[0]["image_id"] == "0017"
        with pytest.raises(ValueError, match="give the id of their image"):
            self.detections().to_coco()

    def test_are_drawn_on_any_kind_of_image(self, tmp_path):
        grey = np.full((10, 20, 3), 128, np.uint8)
        Image.fromarray(grey).save(tmp_path / "a.png")
        found = self.detections(classes=Classes.named(["cat", "dog"]))
        kinds = (
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            Image.fromarray(grey),
            grey,
            torch.from_numpy(grey).permute(2, 0, 1),
        )
        drawn = [np.asarray(found.draw(kind)) for kind in kinds]
        assert all(np.array_equal(one, drawn[0]) for one in drawn)
        assert (drawn[0] != 128).any()
        assert found.draw(grey, scale=3).size == (60, 30)
        assert np.array_equal(found.draw(grey, min_score=0.5), found[:1].draw(grey))
        with pytest.raises(ValueError, match="cannot be drawn on one of 20 x 10"):
            found.draw(grey.transpose(1, 0, 2))

    def test_above_keeps_scores_from_the_threshold_on(self):
        found = self.detections(masks=torch.ones(2, 10, 20, dtype=torch.bool), path="a.jpg").above(0.9)
        assert (len(found), found.path, found.size_hw) == (1, "a.jpg", (10, 20))
        assert found.masks is not None
        assert found.masks.shape == (1, 10, 20)
        assert len(self.detections().above(0.95)) == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"masks": torch.zeros(2, 20, 10)}, r"masks: expected \(2, 10, 20\), got \(2, 20, 10\)"),
            ({"classes": Classes.named(["only"])}, "label 1 of a detector with 1 class"),
        ],
    )
    def test_that_do_not_fit_together_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            self.detections(**changes)

    def test_go_to_supervision_where_it_is_installed(self, monkeypatch):
        made = {}
        fake = types.ModuleType("supervision")
        fake.Detections = lambda **fields: made.update(fields)
        monkeypatch.setitem(sys.modules, "supervision", fake)
        masks = (CroppedMask(0, 0, torch.ones(4, 4, dtype=torch.bool)), CroppedMask(1, 2, torch.eye(4).bool()))
        self.detections(classes=Classes.named(["cat", "dog"]), masks=masks).to_supervision()
        assert made["mask"].shape == (2, 10, 20)
        assert made["mask"].sum((1, 2)).tolist() == [16, 4]
        assert made["xyxy"].tolist() == [SQUARE, [1.0, 2.0, 5.0, 8.0]]
        assert made["class_id"].tolist() == [1, 0]
        assert made["data"] == {"class_name": ["dog", "cat"]}
        self.detections(keypoints=torch.ones(2, 4, 3)).to_supervision()
        assert made["data"]["keypoints"].shape == (2, 4, 3)

    def test_without_supervision_one_sentence_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(ImportError, match="pip install supervision"):
            self.detections().to_supervision()
