"""Tracking: moving shapes with known identities, detected perfectly, keep them; what is not sure has none."""

import importlib
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from boxwright.inference.tracking import TRACKERS, Tracker, track_video
from boxwright.structures import Classes, Detections

trackers = pytest.importorskip("trackers", reason="pip install 'boxwright[track]'", exc_type=ImportError)
FRAMES, RATE, SIZE = 40, 10.0, (120, 200)
CLASSES = Classes.named(["disc", "square"])
# identity: class, first frame, last frame, centre at frame 0, pixels a frame, side
SHAPES = {
    7: (0, 0, FRAMES, (10, 30), (4.5, 0), 24),
    8: (1, 0, FRAMES, (190, 66), (-4.5, 0.5), 20),
    3: (0, 10, FRAMES, (20, 100), (2, 0), 30),
    5: (1, 0, 24, (150, 20), (0, 2), 16),
}


def shapes_at(frame):
    """Identities, labels and boxes (x1, y1, x2, y2) of a frame, in another order in each."""
    there = [(key, *shape) for key, shape in SHAPES.items() if shape[1] <= frame < shape[2]]
    there = there[frame % len(there) :] + there[: frame % len(there)]
    boxes = []
    for _, _, _, _, (x, y), (dx, dy), side in there:
        cx, cy = x + dx * frame, y + dy * frame
        boxes.append([cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2])
    return [row[0] for row in there], [row[1] for row in there], boxes


def found_at(frame, score=0.9):
    _, labels, boxes = shapes_at(frame)
    return Detections(torch.tensor(boxes), torch.full((len(boxes),), score), torch.tensor(labels), SIZE, CLASSES)


def followed(tracker, frames=range(FRAMES), left_out=lambda frame: False, score=lambda frame: 0.9):
    """What the tracker gives, by frame."""
    given = []
    for frame in frames:
        found = found_at(frame, score(frame))
        pixels = np.zeros((*SIZE, 3), np.uint8)
        given.append(tracker.update(found[:0] if left_out(frame) else found, frame / RATE, pixels))
    return given


def scored(given):
    """MOTA's parts and IDF1 by the package's own evaluation."""
    from trackers.eval import box_iou, compute_clear_metrics, compute_identity_metrics

    truth = [shapes_at(frame) for frame in range(len(given))]
    gt = [np.array(ids) for ids, _, _ in truth]
    ours = [np.array(ids, dtype=int) for _, ids in given]
    overlaps = [
        box_iou(np.array(boxes), found.boxes.numpy().reshape(-1, 4))
        for (_, _, boxes), (found, _) in zip(truth, given, strict=True)
    ]
    return compute_clear_metrics(gt, ours, overlaps) | compute_identity_metrics(gt, ours, overlaps)


@pytest.mark.parametrize("name", TRACKERS)
def test_perfect_detections_keep_their_identities(name):
    figures = scored(followed(Tracker(name, score=0.5, rate=RATE)))
    assert (figures["IDSW"], figures["CLR_FP"], figures["Frag"], figures["MT"]) == (0, 0, 0, len(SHAPES))
    assert figures["CLR_FN"] <= 2 * len(SHAPES)  # the first detections of an object have no identity yet
    assert figures["MOTA"] == pytest.approx(1 - figures["CLR_FN"] / 134)
    assert figures["IDF1"] > 0.96


def test_the_score_sees_identities_that_are_exchanged():
    given = followed(Tracker("sort", score=0.5, rate=RATE))
    turned = [(found, ids if frame < 20 else ids[::-1]) for frame, (found, ids) in enumerate(given)]
    assert scored(turned)["IDSW"] > 0
    assert scored(turned)["IDF1"] < 0.9


def test_each_identity_stands_beside_its_own_detection():
    for found, ids in followed(Tracker("bytetrack", score=0.5, rate=RATE))[3:9]:
        assert len(found) == len(ids) == len(set(ids)) == 3
        assert min(ids) >= 1
    per_identity = {}
    for found, ids in followed(Tracker("bytetrack", score=0.5, rate=RATE)):
        for identity, name in zip(ids, found.names, strict=True):
            per_identity.setdefault(identity, set()).add(name)
    assert sorted(per_identity) == [1, 2, 3, 4]
    assert all(len(names) == 1 for names in per_identity.values())


def test_an_object_that_is_not_seen_for_less_than_lost_seconds_keeps_its_identity():
    def identities(lost):
        given = followed(Tracker("sort", score=0.5, rate=RATE, lost=lost), left_out=lambda frame: 15 <= frame < 20)
        return len({identity for _, ids in given for identity in ids})

    assert identities(lost=1.0) == 4
    assert identities(lost=0.2) > 4


@pytest.mark.parametrize(("name", "kept"), [("bytetrack", True), ("sort", False)])
def test_weak_detections_continue_a_track_of_bytetrack_and_start_none(name, kept):
    weak = followed(Tracker(name, score=0.5, rate=RATE), score=lambda frame: 0.3)
    assert all(ids == [] for _, ids in weak)
    later = followed(Tracker("bytetrack", score=0.5, rate=RATE), score=lambda frame: 0.3 if frame > 15 else 0.9)
    assert len(later[20][1]) == 4


def identities_of(tracker, frames, seconds):
    given = [tracker.update(found_at(frame), at) for frame, at in zip(frames, seconds, strict=True)]
    return {identity for _, ids in given for identity in ids}


def test_frames_that_are_far_apart_or_at_one_time_are_followed_too():
    every_second = Tracker("bytetrack", score=0.5, rate=RATE / 2)
    assert len(identities_of(every_second, range(0, 20, 2), [frame / RATE for frame in range(0, 20, 2)])) == 4
    slower_than_lost = Tracker("bytetrack", score=0.5, rate=0.5, lost=0.5)
    assert len(identities_of(slower_than_lost, range(20), range(0, 40, 2))) == 4
    repeated = Tracker("bytetrack", score=0.5, rate=RATE)
    assert len(identities_of(repeated, range(20), [0.1 * (frame // 2) for frame in range(20)])) == 4


def test_masks_stay_with_their_objects():
    tracker = Tracker("sort", score=0.5, rate=RATE)
    for frame in range(6):
        found = found_at(frame)
        masks = torch.zeros(len(found), *SIZE, dtype=torch.bool)
        for plane, (x1, y1, x2, y2) in zip(masks, found.boxes.clamp(min=0).int().tolist(), strict=True):
            plane[y1:y2, x1:x2] = True
        kept, ids = tracker.update(Detections(*found_parts(found), masks=masks), frame / RATE)
    assert len(ids) == 3
    for row, (x1, y1, _, _) in enumerate(kept.boxes.clamp(min=0).int().tolist()):
        assert (kept.mask(row).x, kept.mask(row).y) == (x1, y1)


def found_parts(found):
    return found.boxes, found.scores, found.labels, found.size_hw, found.classes


class Perfect:
    """A detector that knows what is in each frame."""

    score_threshold = 0.5

    def try_stream(self, images, *, listed, **options):
        self.options = options
        for frame, _ in enumerate(images):
            yield None, found_at(frame)


def test_a_video_of_moving_shapes_is_followed(tmp_path):
    pytest.importorskip("av", reason="pip install 'boxwright[video]'")
    from boxwright.inference.video import VideoWriter

    with VideoWriter(tmp_path / "shapes.mp4", Fraction(10)) as writer:
        for frame in range(FRAMES):
            image = Image.new("RGB", SIZE[::-1], (90, 90, 90))
            _, labels, boxes = shapes_at(frame)
            for label, box in zip(labels, boxes, strict=True):
                pen = ImageDraw.Draw(image)
                (pen.rectangle if label else pen.ellipse)(box, fill=(240, 200, 40))
            writer.add(image, frame / 10)
    detector = Perfect()
    given = list(track_video(detector, tmp_path / "shapes.mp4", tracker="bytetrack"))
    assert [one.frame.number for one in given] == list(range(FRAMES))
    assert given[0].frame.pixels.shape == (*SIZE, 3)
    figures = scored([(one.found, one.ids) for one in given])
    assert figures["IDSW"] == 0
    assert figures["MOTA"] > 0.95
    assert detector.options["score"] == 0.25  # weak ones continue tracks
    track_video(detector, tmp_path / "shapes.mp4", tracker="sort", score=0.6).close()
    list(track_video(detector, tmp_path / "shapes.mp4", tracker="sort", score=0.6, end=0.3))
    assert detector.options["score"] == 0.6


def test_what_cannot_be_tracked_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="tracker: expected bytetrack, sort, ocsort, cbiou, botsort, got deepsort"):
        Tracker("deepsort", score=0.5, rate=10)
    with pytest.raises(ValueError, match="lost: expected seconds from 0 on, got -1"):
        Tracker(score=0.5, rate=10, lost=-1)
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.delitem(sys.modules, "trackers")
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ImportError, match=r"pip install 'boxwright\[track\]'"):
        Tracker(score=0.5, rate=10)


def refuse(name):
    raise ImportError(name)
