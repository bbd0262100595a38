"""The torch engine with recorded detections: what a replay gives is what the network would have given."""

import pytest
import torch
from recorded_graph import RecordedGraph
from tiny_detectors import TINY, build, image, needs_proposals

from boxwright.inference.predictor import TorchEngine
from boxwright.ops import roi, suppress_pairs
from boxwright.runtime.cuda_graphs import Kept
from boxwright.runtime.graphed_detect import MOST_GRAPHS, SEEN_BEFORE
from boxwright.structures import DetectSettings, ImageBatch, PaddedDetections, Proposals

CPU = torch.device("cpu")
EVERYTHING = DetectSettings(score_threshold=0.0, nms_iou=0.5, max_detections=20)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """The CPU pools every level, as a GPU does, which it would make wait for the number of regions."""
    monkeypatch.setattr(roi, "counts_regions", lambda device: False)


def engines(name, **options):
    """One that records, and one that does not."""
    capture = RecordedGraph()
    made = [TorchEngine(build(name).eval(), CPU, precision="fp32", capture=use, **options) for use in (capture, None)]
    return (*made, capture)


def batch(seed, height=64, width=64, count=2):
    return ImageBatch.of([image(seed + number, height, width) for number in range(count)])


def regions(seed):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 30, 2, generator=draw) * 30
    return Proposals.of(list(torch.cat([corner, corner + 30 * torch.rand(2, 30, 2, generator=draw)], 2)))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=0, rtol=0)


LEFT_OUT = ("baseline", "course", "rpn", "rotated_faster_rcnn")
"""Like another one; and NMS of rotated boxes waits for the device: such detections are not captured."""


@pytest.mark.parametrize("name", [name for name in TINY if name not in LEFT_OUT])
def test_a_replayed_detection_is_that_of_the_network_bit_for_bit(name):
    recording, plain, capture = engines(name)
    wants = needs_proposals(plain.model)
    results = []
    for seed in range(SEEN_BEFORE + 4):
        given = (batch(seed), EVERYTHING, regions(seed) if wants else None)
        results.append((recording(*given), plain(*given)))
    assert (recording.graphed.why_no_graphs, capture.recorded, capture.replayed) == (None, 1, 3)
    for found, expected in results:  # compared at the end: a later replay must not overwrite what was given
        assert_same(found, expected)
    of_each = [found.scores if found.semantic is None else found.semantic for found, _ in results]
    assert len({float(part.sum()) for part in of_each}) == len(results)  # of different images


def test_each_shape_and_each_setting_has_a_graph_of_its_own_and_the_longest_unused_is_dropped(monkeypatch):
    recording, plain, capture = engines("improved")
    strict = DetectSettings(score_threshold=0.02, nms_iou=0.3, max_detections=3)
    kinds = [((64, 64), EVERYTHING), ((64, 96), EVERYTHING), ((64, 64), strict)]
    for seed in range(SEEN_BEFORE + 2):
        for size, settings in kinds:
            images = batch(seed, *size)
            assert_same(recording(images, settings), plain(images, settings))
    assert (capture.recorded, len(recording.graphed.graphs)) == (3, 3)
    monkeypatch.setattr(recording.graphed.graphs, "most", 3)
    for _ in range(SEEN_BEFORE + 1):
        recording(batch(0, 96, 64), EVERYTHING)
    assert (capture.recorded, len(recording.graphed.graphs)) == (4, 3)
    recording(batch(0), strict)  # kept
    assert capture.recorded == 4
    recording(batch(0), EVERYTHING)  # dropped: its count starts again
    assert capture.recorded == 4
    assert MOST_GRAPHS >= 4


def test_where_one_look_of_nms_is_not_enough_the_whole_is_computed(monkeypatch):
    """As many rows as wanted boxes, none of which may touch another: what was left undecided is never reported."""
    apart = DetectSettings(score_threshold=0.0, nms_iou=0.0, max_detections=100)
    monkeypatch.setattr(suppress_pairs, "FIRST_LOOK", 1)
    monkeypatch.setattr(suppress_pairs, "FEWEST_ROWS", 1)
    for name in ("retinanet", "faster_rcnn"):
        recording, plain, capture = engines(name)
        for seed in range(SEEN_BEFORE + 3):
            launched = recording.graphed.launch(batch(seed), apart)
            assert not bool(launched.found.enough)
            assert_same(launched.result(), plain(batch(seed), apart))
        assert capture.replayed == 2


def test_a_network_that_waits_for_the_device_is_run_without_a_graph(monkeypatch):
    recording, plain, capture = engines("improved")
    detect = recording.model.detect_padded

    def waiting(outputs, settings):
        assert float(outputs.class_logits.sum()) < 0
        return detect(outputs, settings)

    monkeypatch.setattr(recording.model, "detect_padded", waiting, raising=True)
    for seed in range(SEEN_BEFORE + 3):
        assert_same(recording(batch(seed), EVERYTHING), plain(batch(seed), EVERYTHING))
    assert "waits for the device" in recording.graphed.why_no_graphs
    assert capture.recorded == 0


def test_a_batch_may_be_overwritten_as_soon_as_it_was_launched():
    recording, plain, _ = engines("improved")
    for seed in range(SEEN_BEFORE + 3):
        images = batch(seed)
        expected = plain(batch(seed), EVERYTHING)
        launched = recording.graphed.launch(images, EVERYTHING)
        if seed > SEEN_BEFORE:
            images.pixels.zero_()
        assert_same(launched.on_the_way().result(), expected)


def test_what_is_kept_is_counted_and_bounded():
    kept = Kept(most=2, seen_before=1)
    assert [kept.due("a"), kept.due("a"), kept.due("b")] == [False, True, False]
    for key in "abc":
        kept.add(key, key.upper())
        kept.find("a")
    assert [kept.find(key) for key in "abc"] == ["A", None, "C"]
    assert len(kept) == 2
    assert not kept.due("b")


def test_detections_are_changed_part_by_part():
    padded = PaddedDetections(torch.ones(1, 2, 4), torch.ones(1, 2), torch.ones(1, 2).long(), torch.tensor([2]))
    assert padded.each(lambda part: part * 3).masks is None
    assert padded.each(lambda part: part * 3).counts.tolist() == [6]
