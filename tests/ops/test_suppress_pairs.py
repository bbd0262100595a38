"""NMS by all pairs, as on a GPU: few looks, the boxes that the kernel of a CPU keeps, and never a wrong certainty."""

import pytest
import torch

from boxwright.ops import suppress_pairs
from boxwright.ops.select import select_detections, suppress
from boxwright.ops.suppress_pairs import look, one_look, suppress_by_pairs

THRESHOLDS = [0.0, 0.3, 0.5, 0.6, 1.0]


def crowd(seed, count=70, classes=3):
    """A batch (4, N) best first: objects with many boxes each, on whole coordinates, flat ones, and labels of -1."""
    draw = torch.Generator().manual_seed(seed)
    objects = torch.randint(0, 60, (max(1, seed % 9), 2), generator=draw)
    corner = objects[torch.randint(len(objects), (4, count), generator=draw)]
    corner = corner + torch.randint(0, 1 + seed % 6, (4, count, 2), generator=draw)
    side = torch.randint(0, 4 + seed % 12, (4, count, 2), generator=draw)
    labels = torch.randint(-1 if seed % 2 else 0, classes, (4, count), generator=draw)
    return torch.cat([corner, corner + side], 2).float(), labels


def chain(count):
    """Boxes in a row, each overlapped by its neighbours only: whether one is kept depends on all before it."""
    left = torch.arange(count) * 4.0
    return torch.stack([left, torch.zeros(count), left + 10, torch.full((count,), 10.0)], 1)[None]


def best(keep, limit):
    return keep & (keep.cumsum(1) <= limit)


@pytest.fixture(params=[(1, 1, 1, 1024), (4, 8, 2, 1024), (4, 64, 16, 1024), (4, 8, 2, 1)])
def looks(request, monkeypatch):
    """How much a look sees: rows for a wanted box, rows at least, rounds; and how many rows make these products."""
    names = ("FIRST_LOOK", "FEWEST_ROWS", "ROUNDS", "MANY_ROWS")
    for name, value in zip(names, request.param, strict=True):
        monkeypatch.setattr(suppress_pairs, name, value)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_however_little_a_look_sees_the_best_boxes_are_those_of_the_kernel(looks, threshold):
    for seed in range(10):
        boxes, labels = crowd(seed)
        everything = suppress(boxes, labels, threshold, 999)
        for limit in (1, 3, 20, 999):
            found = suppress_by_pairs(boxes, labels, threshold, limit)
            assert torch.equal(best(found, limit), best(everything, limit)), (seed, limit)


@pytest.mark.parametrize("rows", [1, 7, 40, 70])
@pytest.mark.parametrize("rounds", [1, 2, 3, 16])
def test_what_a_look_is_certain_of_is_true(rows, rounds):
    certain = 0
    for seed in range(16):
        boxes, labels = crowd(seed)
        right = suppress(boxes, labels, 0.5, 999)
        keep, decided = look(boxes, labels, 0.5, 5, rows=rows, rounds=rounds)
        assert not bool((keep & ~right).any()), seed
        for image in decided.nonzero()[:, 0].tolist():
            certain += 1
            assert torch.equal(best(keep, 5)[image], best(right, 5)[image]), (seed, image)
    assert certain > 0 or 1 in (rows, rounds)  # one row is seldom enough, and one round settles nothing that overlaps


def test_a_chain_needs_as_many_rounds_as_it_is_long_and_gets_them(monkeypatch):
    boxes = chain(200)
    labels = torch.zeros(1, 200, dtype=torch.int64)
    asked = []
    plain = suppress_pairs.look
    monkeypatch.setattr(suppress_pairs, "look", lambda *a, **k: asked.append(k["rounds"]) or plain(*a, **k))
    found = suppress_by_pairs(boxes, labels, 0.3, 200)
    assert torch.equal(found, suppress(boxes, labels, 0.3, 200))
    assert found[0].nonzero()[:, 0].tolist() == list(range(0, 200, 2))
    assert asked == [16, 64, 256]
    asked.clear()
    suppress_by_pairs(boxes, labels, 0.3, 5)  # the best five are certain long before
    assert asked == [16]


def test_only_images_that_were_not_decided_are_looked_at_again(monkeypatch):
    """Of three images the second has a hundred boxes on one spot before others."""
    boxes = torch.arange(400).float()[:, None] * 20 + torch.tensor([0.0, 0, 9, 9])
    boxes = boxes.repeat(3, 1, 1)
    boxes[1, :100] = torch.tensor([0.0, 0, 9, 9])
    labels = torch.zeros(3, 400, dtype=torch.int64)
    seen = []
    plain = suppress_pairs.look
    monkeypatch.setattr(
        suppress_pairs, "look", lambda b, *a, **k: seen.append((len(b), k["rows"])) or plain(b, *a, **k)
    )
    found = suppress_by_pairs(boxes, labels, 0.5, 10)
    assert seen == [(3, 64), (1, 256)]
    assert torch.equal(best(found, 10), best(suppress(boxes, labels, 0.5, 10), 10))


def test_a_batch_that_is_too_large_is_done_in_parts(monkeypatch):
    boxes, labels = crowd(8)
    right = suppress(boxes, labels, 0.5, 999)
    pairs = boxes.shape[1] ** 2
    for memory in (2 * pairs, 3 * 32 * boxes.shape[1], 1):  # two images at a time; overlaps three rows at a time
        monkeypatch.setattr(suppress_pairs, "PAIR_BYTES", memory)
        assert torch.equal(suppress_by_pairs(boxes, labels, 0.5, 999), right)


def test_one_look_waits_for_nothing_and_tells_where_it_was_not_enough():
    boxes, labels = torch.tensor([0.0, 0, 9, 9]).repeat(2, 200, 1), torch.zeros(2, 200, dtype=torch.int64)
    boxes[0] += torch.arange(200.0)[:, None] * 20
    boxes[1, 150:] += torch.arange(50.0)[:, None] * 20
    scores = torch.linspace(1, 0.1, 200).expand(2, -1)
    with one_look() as enough:
        found = select_detections(boxes, scores, labels, 0.5, 10)
    (decided,) = enough
    assert decided.tolist() == [True, False]
    whole = select_detections(boxes, scores, labels, 0.5, 10)
    for one, other in zip(found, whole, strict=True):
        assert torch.equal(one[0], other[0])
    assert found[3].tolist() == [10, 1]
    assert whole[3].tolist() == [10, 10]
    assert torch.equal(select_detections(boxes, scores, labels, 0.5, 10)[0], whole[0])  # outside it is whole again


def test_nothing_to_look_at():
    none = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
    assert suppress_by_pairs(*none, 0.5, 5).shape == (2, 0)
    with one_look() as enough:
        assert select_detections(torch.zeros(2, 1, 4), torch.zeros(2, 1), torch.full((2, 1), -1), 0.5, 3)[3].sum() == 0
    assert enough[0].tolist() == [True, True]
    boxes, labels = crowd(5)
    assert not bool(suppress_by_pairs(boxes, torch.full_like(labels, -1), 0.5, 5).any())
    assert best(suppress_by_pairs(boxes, labels, 0.5, 0), 0).sum() == 0
