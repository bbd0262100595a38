"""Batches that overlap: in order, a bounded number at a time, errors where they belong, and waiting that is counted."""

import pytest
import torch

from boxwright.inference.overlap import AHEAD, IN_FLIGHT, DeviceUse, overlapped
from boxwright.structures import ImageBatch

CPU = torch.device("cpu")


class Device:
    """A stand-in for a GPU: it has a batch from its launch until its result is fetched, which is there `at_once`."""

    def __init__(self, at_once=False):
        self.flying, self.log, self.most, self.at_once = set(), [], 0, at_once

    def launched(self, name):
        self.flying.add(name)
        self.most = max(self.most, len(self.flying))
        self.log.append(f"launch {name}")


class Batch:
    """One of its batches, in place of `Launched`, and of the detections it gives."""

    def __init__(self, device, name, error=None):
        self.device, self.name, self.error, self.is_here = device, name, error, device.at_once
        device.launched(name)

    def on_the_way(self):
        return self

    def result(self):
        self.device.flying.remove(self.name)
        if self.error:
            raise self.error
        return self

    def cpu(self):
        return self


class Window:
    """Images of one window, two a batch; what is found for image 3 is 30."""

    def __init__(self, device, numbers, breaks=None, error=None):
        self.device, self.numbers, self.breaks, self.error = device, numbers, breaks, error
        self.parts = [list(range(start, min(start + 2, len(numbers)))) for start in range(0, len(numbers), 2)]
        self.found, self.assembled, self.closed = {}, 0, False

    def assemble(self, rows):
        self.assembled += 1
        if self.breaks == "assemble":
            raise self.error
        return ImageBatch.of([torch.zeros(3, 4, 4, dtype=torch.uint8)] * len(rows))

    def launch(self, rows, images):
        if self.breaks == "launch":
            raise self.error
        return Batch(self.device, self.numbers[rows[0]], self.error if self.breaks == "result" else None)

    def restore(self, rows, images, padded):
        self.device.log.append(f"restore {padded.name}")
        self.found.update({row: 10 * self.numbers[row] for row in rows})

    def results(self):
        for row, number in enumerate(self.numbers):
            self.device.log.append(f"give {number}")
            yield self.found[row]

    def close(self):
        self.closed = True


def windows_of(device, count, size=8):
    return [Window(device, list(range(start, start + size))) for start in range(0, count, size)]


def test_the_device_has_work_of_the_next_window_where_one_ends():
    device = Device()
    windows, at_the_end, seen = windows_of(device, 24), [], []
    for result in overlapped(iter(windows), lambda: True, CPU, None):
        if result % 80 == 0:  # the first result of a window: all of its batches are done
            at_the_end.append(len(device.flying))
        seen.append(result)
    assert seen == [10 * number for number in range(24)]
    assert at_the_end == [IN_FLIGHT, IN_FLIGHT, 0]
    assert device.most == IN_FLIGHT
    assert not device.flying
    assert all(window.closed for window in windows)
    first_of_the_next = device.log.index("launch 8")
    assert first_of_the_next < device.log.index("restore 6")


def test_a_window_that_is_not_there_yet_does_not_hold_up_the_results_of_the_one_before():
    device = Device()
    windows = windows_of(device, 16)
    asked = []

    def source():
        for window in windows:
            asked.append(window)
            yield window

    stream = overlapped(source(), lambda: False, CPU, None)
    for number in range(8):
        assert next(stream) == 10 * number
        assert asked == windows[:1]
    assert next(stream) == 80
    assert windows[0].closed


def test_the_device_works_on_while_the_caller_uses_the_results():
    device = Device(at_once=True)
    stream = overlapped(iter(windows_of(device, 16)), lambda: True, CPU, None)
    assert [next(stream) for _ in range(8)] == [10 * number for number in range(8)]
    assert device.log.index("launch 14") < device.log.index("give 7")
    assert device.most == IN_FLIGHT


def test_batches_are_assembled_only_a_few_ahead():
    device = Device()
    (window,) = windows_of(device, 40, size=40)
    stream = overlapped(iter([window]), lambda: True, CPU, None)
    launched = 0
    launch = window.launch

    def counted(rows, images):
        nonlocal launched
        launched += 1
        assert window.assembled - launched <= AHEAD
        return launch(rows, images)

    window.launch = counted
    assert list(stream) == [10 * number for number in range(40)]
    assert launched == 20


@pytest.mark.parametrize("breaks", ["assemble", "launch", "result"])
def test_what_fails_in_a_window_comes_after_all_results_of_the_one_before(breaks):
    device, seen = Device(), []
    windows = windows_of(device, 24)
    windows[1].breaks, windows[1].error = breaks, RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        seen.extend(overlapped(iter(windows), lambda: True, CPU, None))
    assert seen == [10 * number for number in range(8)]
    assert "launch 16" not in device.log


def test_windows_without_a_batch_are_passed():
    device = Device()
    windows = [Window(device, []), *windows_of(device, 4, size=2), Window(device, [])]
    assert list(overlapped(iter(windows), lambda: True, CPU, None)) == [0, 10, 20, 30]
    assert list(overlapped(iter([]), lambda: True, CPU, None)) == []


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


@pytest.mark.parametrize("window", [1, 3, 64])
def test_a_device_gives_what_a_cpu_gives_with_errors_at_their_place(detector, scene, monkeypatch, window):
    given = [scene(96, 128, seed) if seed != 4 else "nowhere.png" for seed in range(9)]
    on_a_cpu = list(detector.try_stream(given, batch=2, window=window))
    monkeypatch.setattr(detector, "device", torch.device("meta"))  # so that batches overlap; the engine is on the CPU
    elsewhere = list(detector.try_stream(given, batch=2, window=window))
    assert [type(one) for one in elsewhere] == [type(one) for one in on_a_cpu]
    assert isinstance(elsewhere[4], FileNotFoundError)
    for one, other in zip(elsewhere, on_a_cpu, strict=True):
        if not isinstance(one, Exception):
            assert torch.equal(one[1].boxes, other[1].boxes)
            assert torch.equal(one[1].scores, other[1].scores)


def test_a_device_gives_results_as_early_as_a_cpu(detector, images, monkeypatch):
    """Of a source that makes its images, as many are taken before each result."""

    def taken_before_each():
        taken = []

        def source():
            for number in range(20):
                taken.append(number)
                yield images[number % 3]

        return [len(taken) for _ in detector.stream(source(), batch=2, window=4)]

    on_a_cpu = taken_before_each()
    monkeypatch.setattr(detector, "device", torch.device("meta"))
    assert taken_before_each() == on_a_cpu
    assert on_a_cpu[:9] == [8, 8, 8, 8, 12, 12, 12, 12, 16]
