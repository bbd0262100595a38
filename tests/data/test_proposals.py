"""Proposal files, and proposals that go through every augmentation with their image."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.dataset import Augmentation, DetectionDataset, SampleKey
from boxwright.data.loader import Collate
from boxwright.data.mosaic import Mosaic, mosaic
from boxwright.data.proposals import read_proposals, write_proposals
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.transforms import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomIoUCrop,
    Sample,
    ScaleJitter,
    VerticalFlip,
)
from boxwright.ops.image import ResizeRule
from boxwright.structures import Classes, Detections, GroundTruth

BOXES = torch.tensor([[5.0, 6.0, 40.0, 30.0], [30.0, 20.0, 76.0, 55.0], [2.0, 40.0, 22.0, 58.0]])
RULE = ResizeRule("short_side", size=90, max_size=200)


def detections(boxes, size_hw=(60, 80)):
    return Detections(boxes, torch.linspace(0.9, 0.5, len(boxes)), torch.zeros(len(boxes), dtype=torch.int64), size_hw)


@pytest.fixture
def stored(tmp_path):
    file = tmp_path / "proposals.npz"
    names = ["train/a.png", "val/a.png", "b.png"]
    assert write_proposals(file, zip(names, map(detections, (BOXES, BOXES[:1], BOXES[:0])), strict=True)) == (3, 4)
    return read_proposals(file)


class TestFiles:
    def test_what_is_written_is_read(self, stored):
        assert len(stored) == 3
        rows = stored.of("/data/train/a.png", (60, 80))
        assert torch.equal(rows[:, :4], BOXES)
        torch.testing.assert_close(rows[:, 4], torch.tensor([0.9, 0.7, 0.5]))
        assert stored.of("b.png", (60, 80)).shape == (0, 5)

    def test_images_are_known_by_the_end_of_their_path(self, stored):
        assert stored.index_of("/anywhere/val/a.png") == 1
        assert stored.index_of("/anywhere/b.png") == 2
        assert stored.index_of("/anywhere/test/a.png") is None
        assert stored.index_of("/anywhere/xb.png") is None

    def test_images_without_proposals_are_named(self, stored, tmp_path):
        records = [Record(tmp_path / name, 0, (60, 80), (), name) for name in ("b.png", "c.png", "d.png")]
        stored.check(records[:1])
        with pytest.raises(ValueError, match=r"no proposals for 2 of 3 images, first .*c\.png; write them with"):
            stored.check(records)

    def test_proposals_of_another_image_of_the_same_name_are_refused(self, stored, tmp_path):
        with pytest.raises(ValueError, match=r"for an image of 60 x 80 pixels .* it has 61 x 80: .* other images"):
            stored.check([Record(tmp_path / "b.png", 0, (61, 80), (), "b")])

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
    def test_what_is_no_proposal_file_is_refused(self, tmp_path, content):
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not a proposal file"):
            read_proposals(tmp_path / "p.npz")

    def test_arrays_that_do_not_fit_together_are_refused(self, tmp_path):
        good = {"names": np.array(["a"]), "sizes": np.array([[4, 4]]), "counts": np.array([1]),
                "boxes": np.zeros((1, 4)), "scores": np.zeros(1)}  # fmt: skip
        for name, wrong in (("counts", np.array([2])), ("boxes", np.zeros((1, 5))), ("sizes", np.array([4]))):
            np.savez(tmp_path / "p.npz", **{**good, name: wrong})
            with pytest.raises(ValueError, match="do not fit together"):
                read_proposals(tmp_path / "p.npz")
        np.savez(tmp_path / "p.npz", **{**good, "boxes": np.full((1, 4), np.nan)})
        with pytest.raises(ValueError, match="is not a number"):
            read_proposals(tmp_path / "p.npz")
        np.savez(tmp_path / "p.npz", **{**good, "names": np.array(["a", {}], dtype=object)})
        with pytest.raises(ValueError, match="not a proposal file"):
            read_proposals(tmp_path / "p.npz")  # objects could run code

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"counts": [-1, 2]}, "do not fit together"),
            ({"counts": [1.0, 0.0]}, r"counts \(2,\) of float64"),
            ({"counts": ["1", "0"]}, "do not fit together"),
            ({"names": [1, 2]}, "do not fit together"),
            ({"names": [b"a.png", b"b.png"]}, "do not fit together"),
            ({"boxes": [["1", "2", "3", "4"]]}, "do not fit together"),
            ({"sizes": [[float("nan"), 9.0], [9.0, 9.0]]}, "do not fit together"),
            ({"boxes": [[50.0, 60, 20, 10]]}, r"expected boxes as x1, y1, x2, y2, got \[50.0, 60.0, 20.0, 10.0\]"),
            ({"names": ["a.png", "a.png"]}, "a.png occurs 2 times"),
        ],
    )
    def test_arrays_of_another_kind_are_refused(self, tmp_path, change, sentence):
        arrays = {"names": ["a.png", "b.png"], "sizes": [[9, 9]] * 2, "counts": [1, 0], "boxes": [[1.0, 2, 3, 4]],
                  "scores": [0.5]}  # fmt: skip
        file = tmp_path / "p.npz"
        np.savez(file, **arrays)
        assert read_proposals(file).of("a.png", (9, 9)).shape == (1, 5)
        np.savez(file, **(arrays | change))
        with pytest.raises(ValueError, match=sentence):
            read_proposals(file)

    def test_a_file_that_is_damaged_in_the_middle_is_refused(self, stored):
        content = bytearray(stored.path.read_bytes())
        for at in range(60, 120):
            content[at] ^= 0x55
        stored.path.write_bytes(content)
        with pytest.raises(ValueError, match="not a proposal file"):
            read_proposals(stored.path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such proposal file"):
            read_proposals(tmp_path / "p.npz")


class TestAugmentation:
    @pytest.mark.parametrize(
        "step",
        [HorizontalFlip(1.0), VerticalFlip(1.0), ScaleJitter(1.2, 2.0), ScaleJitter(0.4, 0.9), RandomIoUCrop(1.0),
         ColourJitter(), lambda sample: mosaic([sample] * 4, sample.size_hw)],
    )  # fmt: skip
    def test_proposals_go_where_the_objects_go(self, step):
        """Proposals that are the objects themselves still are."""
        image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
        scores = torch.tensor([[0.9], [0.8], [0.7]])
        sample = Sample(image, GroundTruth.of(BOXES, [0, 1, 2]), torch.cat([BOXES, scores], dim=1))
        seen = 0
        for seed in range(8):
            torch.manual_seed(seed)
            after = step(sample)
            assert after.proposals.shape[1] == 5
            for box, label in zip(after.ground_truth.boxes, after.ground_truth.labels.tolist(), strict=True):
                same = torch.isclose(after.proposals[:, :4], box, atol=1e-4).all(1)
                assert same.any()
                assert torch.isclose(after.proposals[same, 4], scores[label]).any()
                seen += 1
            assert (after.proposals[:, :4] >= 0).all()
        assert seen > 4

    def test_an_image_without_a_proposal_file_has_none(self):
        sample = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), GroundTruth.empty())
        assert HorizontalFlip(1.0)(sample).proposals is None
        assert mosaic([sample] * 4, (8, 8)).proposals is None


@pytest.mark.parametrize("cache", [False, True])
def test_the_loader_brings_proposals_at_network_size(stored, tmp_path, cache):
    records = []
    for name in ("train/a.png", "b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((60, 80, 3), dtype=np.uint8)).save(path)
        records.append(Record(path, name, (60, 80), (Annotation((5.0, 6.0, 40.0, 30.0), 0, name),), name))
    split = Split("train", tuple(records), Classes.named(["a"]))
    images = DetectionDataset(split, RULE, cache=cache, proposals=stored)
    batch = Collate(RULE)([images[0], images[1]])
    assert batch.proposals.valid.tolist() == [[True] * 3, [False] * 3]
    torch.testing.assert_close(batch.proposals.boxes[0], BOXES * 1.5)
    torch.testing.assert_close(batch.proposals.boxes[0, 0], batch.targets.boxes[0, 0])
    mixed = DetectionDataset(
        split, RULE, cache=cache, proposals=stored, augmentation=Augmentation(Compose([]), Mosaic(1.0))
    )
    sample, _, _ = mixed[SampleKey(0, 1, mosaic=True)]
    assert sample.proposals is not None
    assert DetectionDataset(split, RULE, cache=cache)[0][0].proposals is None


def test_every_flipped_bit_is_noticed_or_changes_nothing(stored):
    whole, noticed = stored.path.read_bytes(), 0
    for place in range(0, len(whole), 5):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        stored.path.write_bytes(content)
        try:
            found = read_proposals(stored.path)
        except ValueError:
            noticed += 1
        else:
            assert torch.equal(found.of("train/a.png", (60, 80)), stored.of("train/a.png", (60, 80)))
    assert noticed > len(whole) // 5 // 3


def test_an_array_is_no_larger_than_the_file(stored):
    with np.load(stored.path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    with zipfile.ZipFile(stored.path, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            content = stream.getvalue()
            if name == "scores":
                content = content.replace(b"(4,)", b"(4000000000000,)").replace(b" " * 12 + b"\n", b"\n")
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(ValueError, match=r"scores\.npy is not of the length that its header says"):
        read_proposals(stored.path)
