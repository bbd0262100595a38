"""Video: each frame once, upright, at its time, with its own detections, whatever the file has suffered."""

import itertools
import struct
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.inference.video import AHEAD, Video, VideoWriter

av = pytest.importorskip("av", reason="pip install 'boxwright[video]'")
SIZE = (64, 96)
RED, BLUE = (220, 20, 20), (20, 20, 220)


def level(number):
    """The grey of a frame of the test video, which tells its number."""
    return 20 + 5 * number


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes a video of grey frames whose grey tells their number, shown at given times."""
    folder = tmp_path_factory.mktemp("videos")

    def written(name, times, codec="mpeg4", frame=None):
        path = folder / name
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=10, bit_rate=4_000_000)
            stream.height, stream.width = SIZE
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for number, seconds in enumerate(times):
                pixels = np.full((*SIZE, 3), level(number), np.uint8) if frame is None else frame
                one = av.VideoFrame.from_ndarray(pixels)
                one.pts, one.time_base = round(1000 * seconds), Fraction(1, 1000)
                file.mux(stream.encode(one))
            file.mux(stream.encode())
        return path

    return written


def tenths(count):
    return [number / 10 for number in range(count)]


def numbers_shown(frames):
    return [round((float(frame.pixels.mean()) - 20) / 5) for frame in frames]


def test_every_frame_comes_once_with_its_number_and_time(write):
    frames = list(Video(write("a.mp4", tenths(30))).frames())
    assert numbers_shown(frames) == [frame.number for frame in frames] == list(range(30))
    assert [frame.seconds for frame in frames] == pytest.approx(tenths(30))


def test_step_start_and_end_choose_frames(write):
    video = Video(write("a.mp4", tenths(30)))
    assert video.count(3, 0.5, 2.0) == 5
    frames = list(video.frames(step=3, start=0.5, end=2.0))
    assert numbers_shown(frames) == [frame.number for frame in frames] == [5, 8, 11, 14, 17]


def test_frames_of_a_variable_rate_have_their_own_times(write):
    times = [0.0, 0.1, 0.15, 0.6, 2.0, 2.05]
    frames = list(Video(write("v.mkv", times)).frames())
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=1e-3)
    assert numbers_shown(Video(write("v.mkv", times)).frames(start=0.5, end=2.0)) == [3]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_file_gives_the_frames_that_it_has(write, share):
    whole = write("w.mkv", tenths(40))
    cut = whole.with_name(f"cut{share}.mkv")
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    shown = numbers_shown(Video(cut).frames())
    assert 0 < len(shown) < 40
    assert shown == list(range(len(shown)))


def test_a_damaged_packet_does_not_end_the_video(write):
    whole = write("w.avi", tenths(40), codec="mjpeg")
    data = bytearray(whole.read_bytes())
    starts = [at for at in range(len(data) - 4) if data[at : at + 3] == b"\xff\xd8\xff"]
    tables = data.index(b"\xff\xc0", starts[20])
    data[tables + 4] = 99  # bits a sample: no JPEG has as many
    damaged = whole.with_name("damaged.avi")
    damaged.write_bytes(data)
    video = Video(damaged)
    frames = list(video.frames())
    assert video.damaged >= 1
    assert numbers_shown(frames[-1:]) == [39]
    assert len(frames) == 40 - video.damaged


def test_the_rotation_of_a_phone_is_applied(write):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, :48], pixels[:, 48:] = RED, BLUE  # left red, right blue
    path = write("turned.mp4", tenths(3), frame=pixels)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # its matrix: x' = -y, y' = x, which is a quarter turn clockwise
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frame = next(Video(path).frames())
    assert frame.pixels.shape == (96, 64, 3)
    assert np.abs(frame.pixels[:40].mean((0, 1)) - RED).max() < 12  # left is on top now
    assert np.abs(frame.pixels[56:].mean((0, 1)) - BLUE).max() < 12


def test_detections_are_those_of_each_frame_alone(detector, scene, tmp_path):
    path = tmp_path / "scenes.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "bgr0"
        for seed in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(scene(96, 128, seed))))
        file.mux(stream.encode())
    pairs = list(detector.video(path, score=0.5, batch=2, window=2))
    assert [frame.number for frame, _ in pairs] == list(range(5))
    for seed, (frame, found) in enumerate(pairs):
        assert np.array_equal(frame.pixels, scene(96, 128, seed))
        (alone,) = detector.predict(scene(96, 128, seed), score=0.5)
        assert len(found) == len(alone) > 0
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-2, rtol=1e-4)


def test_decoding_goes_on_while_a_frame_is_used_and_stops_with_its_reader(write):
    video = Video(write("long.mp4", tenths(AHEAD + 20)))
    decoded = []
    inner = video._images
    video._images = lambda: (decoded.append(1) or image for image in inner())
    frames = video.frames()
    next(frames)
    until = time.monotonic() + 20
    while len(decoded) < AHEAD + 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert AHEAD + 1 <= len(decoded) <= AHEAD + 2  # in the queue, and one or two in hand
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "video"]


def test_a_written_video_shows_each_frame_at_its_time(tmp_path):
    from PIL import Image

    times = [0.0, 0.04, 0.5, 1.25]
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        for number, seconds in enumerate(times):
            writer.add(Image.new("RGB", (63, 41), (level(10 * number),) * 3), seconds)
    frames = list(Video(tmp_path / "out.mp4").frames())
    assert [frame.pixels.shape for frame in frames] == [(42, 64, 3)] * 4
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=1e-3)
    assert numbers_shown(frames) == pytest.approx([0, 10, 20, 30], abs=1)


@pytest.mark.parametrize(("step", "start", "end"), [(0, 0, None), (1, -1, None), (1, 2, 1), (1, float("nan"), None)])
def test_frames_that_cannot_be_chosen_are_refused(write, step, start, end):
    with pytest.raises(ValueError, match="expected"):
        Video(write("a.mp4", tenths(3))).frames(step, start, end)


def test_what_is_no_video_is_refused_in_a_sentence(write, tmp_path):
    (tmp_path / "text.mp4").write_text("no video " * 50)
    with pytest.raises(ValueError, match=r"text\.mp4: expected a video, got something that FFmpeg cannot open"):
        Video(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match="no such video"):
        Video(tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError, match="no camera 97"):
        Video("97")
    with pytest.raises(ValueError, match=r"this is a URL.*--network"):
        Video("rtsp://localhost/door")
    whole = write("sound.mkv", tenths(1))
    with av.open(str(whole.with_name("only.wav")), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.rate = 8000
        file.mux(itertools.chain(stream.encode(sound), stream.encode()))
    with pytest.raises(ValueError, match="without a video stream"):
        Video(whole.with_name("only.wav"))


def test_a_codec_that_is_missing_is_a_sentence(write, tmp_path, monkeypatch):
    known = write("known.avi", [number / 10 for number in range(5)], codec="mjpeg").read_bytes()
    (tmp_path / "unknown.avi").write_bytes(known.replace(b"MJPG", b"ZZZZ"))
    with pytest.raises(ValueError, match=r"unknown\.avi: its codec is not known to this FFmpeg; convert it to H\.264"):
        Video(tmp_path / "unknown.avi")
    monkeypatch.setattr("boxwright.inference.video.CODECS", ("h999",))
    with (
        pytest.raises(ValueError, match="this FFmpeg has none of the codecs h999; use --no-draw"),
        VideoWriter(tmp_path / "out.mp4", Fraction(10)) as writer,
    ):
        writer.add(Image.new("RGB", (64, 48)), 0.0)
