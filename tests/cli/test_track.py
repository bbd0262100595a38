"""`boxwright track`: identities as MOT text, JSON lines and drawn, counts, and sentences for what does not fit."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

pytest.importorskip("av", reason="pip install 'boxwright[track]'")
pytest.importorskip("trackers", reason="pip install 'boxwright[track]'", exc_type=ImportError)
from boxwright.inference.video import Video, VideoWriter

TINY = ["model.fpn.channels=16", "model.head.stem_channels=[]", "data.resize.size=64"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small detector with random weights that reports everything."""
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", TINY)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(Checkpoint(recipe, Classes(("cat", "dog"), (4, 9)), recipe.build_model(2).state_dict(), 0.0), path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve frames, ten a second, which hardly change."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    with VideoWriter(path, Fraction(10)) as writer:
        for number in range(12):
            writer.add(Image.fromarray(np.full((48, 64, 3), 100 + number, np.uint8)), number / 10)
    return path


def test_a_folder_holds_mot_text_lines_of_json_counts_and_the_video(boxwright, checkpoint, clip):
    words = ["--step", 2, "--max-detections", 3, "--line", "0,1,64,1", "--zone", "0,0,64,0,64,48,0,48"]
    ended = boxwright("track", checkpoint, clip, *words)
    assert (ended.code, ended.out) == (0, "tracks\n"), ended.err
    assert "identities in 6 frames" in ended.err
    assert "line 0,1,64,1: in 0; out 0" in ended.err
    lines = [json.loads(line) for line in Path("tracks/tracks.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 2, 4, 6, 8, 10]
    objects = [(line["frame"] + 1, one) for line in lines for one in line["objects"]]
    assert len(objects) >= 3
    rows = [row.split(",") for row in Path("tracks/tracks.txt").read_text().splitlines()]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(frame, one["id"]) for frame, one in objects]
    for row, (_, one) in zip(rows, objects, strict=True):
        x, y, width, height, score = map(float, row[2:7])
        assert [x, y, x + width, y + height] == pytest.approx(one["box"], abs=0.02)
        assert score == pytest.approx(one["score"], abs=1e-4)
        assert row[7:] == ["-1", "-1", "-1"]
    counts = json.loads(Path("tracks/counts.json").read_text())
    assert sum(counts["identities"].values()) == len({one["id"] for _, one in objects})
    assert counts["lines"] == [{"line": [0, 1, 64, 1], "in": {}, "out": {}}]
    assert counts["zones"][0]["zone"] == [0, 0, 64, 0, 64, 48, 0, 48]
    drawn = list(Video("tracks/annotated.mp4").frames())
    assert [frame.pixels.shape for frame in drawn] == [(48, 64, 3)] * 6


def test_the_package_reads_the_mot_text(boxwright, checkpoint, clip):
    from trackers import load_mot_file

    ended = boxwright("track", checkpoint, clip, "--no-draw", "--tracker", "sort", "--out", "o")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in Path("o").iterdir()) == ["counts.json", "tracks.jsonl", "tracks.txt"]
    assert set(load_mot_file(Path("o/tracks.txt"))) <= set(range(1, 13))


def test_bad_input_is_refused_in_a_sentence_and_writes_nothing(boxwright, checkpoint, clip, tmp_path, monkeypatch):
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    boxwright("track", checkpoint, clip, "--tracker", "deepsort").refused("expected bytetrack, sort", "got deepsort")
    boxwright("track", checkpoint, clip, "--line", "1,2,3").refused("--line: expected x1,y1,x2,y2", "'1,2,3'")
    boxwright("track", checkpoint, clip, "--zone", "1,2,3,4").refused("--zone: expected", "got 2 points")
    boxwright("track", checkpoint, clip, "--line", "0,90,64,90").refused("within the frame of 64 x 48 pixels")
    boxwright("track", checkpoint, image).refused("a.png: expected a video, a camera or a stream")
    boxwright("track", checkpoint, tmp_path).refused("expected a video, a camera or a stream")
    boxwright("track", checkpoint, "gone.mp4").refused("gone.mp4: no such video")
    boxwright("track", checkpoint, "97").refused("no camera 97")
    boxwright("track", checkpoint, "rtsp://door/1").refused("this is a URL", "--network")
    boxwright("track", checkpoint, clip, "--score", 2).refused("--score: expected 0 to 1")
    assert not list(Path().iterdir())
    boxwright("track", checkpoint, clip, "--conf", 0.4).refused("use --score 0.4")
    monkeypatch.setitem(sys.modules, "trackers", None)
    boxwright("track", checkpoint, clip).refused("pip install 'boxwright[track]'")


def test_the_video_itself_is_not_overwritten(boxwright, checkpoint, clip, tmp_path):
    own = tmp_path / "annotated.mp4"
    own.write_bytes(clip.read_bytes())
    boxwright("track", checkpoint, own, "--out", tmp_path).refused("the video itself would be overwritten")
    assert own.read_bytes() == clip.read_bytes()
