"""Batches that overlap: in order, a bounded number at a time, errors where they belong, and waiting that is counted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from boxwright.inference.overlap import IN_FLIGHT, DeviceUse, made_ahead, under_way


def test_results_come_in_order_and_only_so_many_are_under_way():
    launched, taken = [], []
    for result in under_way(range(7), lambda item: launched.append(item) or item, IN_FLIGHT):
        taken.append(result)
        assert len(launched) - len(taken) <= IN_FLIGHT - 1
    assert taken == list(range(7))
    assert list(under_way([], lambda item: item, 3)) == []


def test_what_is_made_ahead_is_in_order_and_no_further_ahead_than_asked():
    made, seen = [], []
    go_on = threading.Event()

    def make(item):
        made.append(item)
        go_on.set()
        return item * 10

    with ThreadPoolExecutor(1) as pool:
        for value in made_ahead(range(6), make, pool, 2):
            seen.append(value)
            assert max(made) <= len(seen) + 1
    assert seen == [0, 10, 20, 30, 40, 50]
    with ThreadPoolExecutor(1) as pool:
        assert list(made_ahead([], make, pool, 2)) == []


def test_an_error_comes_at_its_place():
    def make(item):
        if item == 2:
            raise ValueError("no image")
        return item

    seen = []
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="no image"):
        seen.extend(made_ahead(range(5), make, pool, 2))
    assert seen == [0, 1]


def test_the_share_of_waiting_is_that_of_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("boxwright.inference.overlap.time.perf_counter", lambda: now[0])
    use = DeviceUse(torch.device("cpu"))
    assert use.waited == 0.0
    for idle, busy in ((1.0, 2.0), (0.0, 3.0), (2.0, 2.0)):
        now[0] += idle
        use.begin()
        now[0] += busy
        use.end()
    now[0] += 100  # what comes after the last batch is no waiting for one
    assert use.waited == pytest.approx(0.3)


def test_predict_counts_its_batches(detector, images):
    use = DeviceUse(detector.device)
    found = list(detector.try_stream(images, batch=1, use=use))
    assert len(found) == 3
    assert len(use._marks) == 1 + 2 * 3
    assert 0 <= use.waited < 1
