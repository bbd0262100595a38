"""`boxwright predict` on a video: an annotated video and a line of JSON a frame, sentences for what does not fit."""

import json
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from whole_masks import decode_rle

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.cli.predict_video import json_line
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, Panoptic, PanopticSegment

pytest.importorskip("av", reason="pip install 'boxwright[video]'")
from fractions import Fraction

from boxwright.inference.video import Frame, Video, VideoWriter

TINY = ["model.fpn.channels=16", "model.head.stem_channels=[]", "data.resize.size=64"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small detector with random weights that reports everything."""
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", TINY)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    weights = recipe.build_model(2).state_dict()
    save_checkpoint(Checkpoint(recipe, Classes(("cat", "dog"), (4, 9)), weights, 0.0), path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve frames, ten a second."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    with VideoWriter(path, Fraction(10)) as writer:
        for number in range(12):
            writer.add(Image.fromarray(np.full((48, 64, 3), 20 * number, np.uint8)), number / 10)
    return path


def lines_of(folder):
    return [json.loads(line) for line in (Path(folder) / "frames.jsonl").read_text().splitlines()]


def test_a_video_is_annotated_and_listed_frame_by_frame(boxwright, checkpoint, clip):
    words = ["--step", 2, "--start", 0.3, "--end", 1.0, "--max-detections", 3]
    ended = boxwright("predict", checkpoint, clip, *words)
    assert (ended.code, ended.out) == (0, "predictions\n"), ended.err
    assert "12 objects in 4 frames" in ended.err
    assert "frames/s" in ended.err
    lines = lines_of("predictions")
    assert [(line["frame"], line["seconds"]) for line in lines] == [(3, 0.3), (5, 0.5), (7, 0.7), (9, 0.9)]
    assert all(set(row) == {"name", "score", "box"} for line in lines for row in line["objects"])
    drawn = list(Video("predictions/annotated.mp4").frames())
    assert [frame.pixels.shape for frame in drawn] == [(48, 64, 3)] * 4
    assert any(np.ptp(frame.pixels.reshape(-1, 3), axis=0).max() > 60 for frame in drawn)  # boxes on a grey frame


def test_a_truncated_video_gives_what_it_has_and_exit_code_0(boxwright, checkpoint, clip, tmp_path):
    import av

    whole = tmp_path / "whole.mkv"
    with av.open(str(clip)) as given, av.open(str(whole), "w") as file:
        stream = file.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(0.9 * whole.stat().st_size)])
    ended = boxwright("predict", checkpoint, cut, "--out", "o", "--no-draw")
    assert ended.code == 0, ended.err
    assert 0 < len(lines_of("o")) <= 12
    assert [path.name for path in Path("o").iterdir()] == ["frames.jsonl"]


def test_a_stream_is_read_over_the_network_only_when_asked_for(boxwright, checkpoint, clip):
    handler = partial(SimpleHTTPRequestHandler, directory=str(clip.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.mp4"
        boxwright("predict", checkpoint, url).refused("this is a URL", "--network")
        ended = boxwright("predict", checkpoint, url, "--network", "--no-draw", "--out", "o")
        server.shutdown()
    assert ended.code == 0, ended.err
    assert len(lines_of("o")) == 12


def test_what_does_not_go_with_a_video_is_refused(boxwright, checkpoint, clip, tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    boxwright("predict", checkpoint, clip, tmp_path / "a.png").refused("a video is predicted alone")
    boxwright("predict", checkpoint, tmp_path / "a.png", "--step", 2).refused("--step is for a video")
    boxwright("predict", checkpoint, clip, "--format", "yolo").refused("--format yolo", "frames.jsonl")
    boxwright("predict", checkpoint, clip, "--start", 2, "--end", 1).refused("0 <= start < end")
    boxwright("predict", checkpoint, "97").refused("no camera 97")
    boxwright("predict", checkpoint, "gone.mp4").refused("gone.mp4: no such video")
    assert not list(Path().iterdir())
    monkeypatch.setitem(sys.modules, "av", None)
    boxwright("predict", checkpoint, clip).refused("pip install 'boxwright[video]'")


def test_a_line_has_the_segments_of_a_model_that_labels_pixels():
    classes = Classes(("cat",), (17,), stuff=("sky", "road"), stuff_ids=(92, 101))
    segments = (PanopticSegment(1, 0, True, 0.75, 0, 2), PanopticSegment(3, 1, False, None, None, 4))
    ids = torch.tensor([[1, 1, 3], [3, 3, 3]], dtype=torch.int32)
    semantic = torch.tensor([[0, 0, 2], [2, 255, 255]], dtype=torch.uint8)
    parts = (torch.tensor([[0.0, 0, 2, 1]]), torch.tensor([0.75]), torch.tensor([0]), (2, 3), classes)
    frame = Frame(4, 0.5, np.zeros((2, 3, 3), np.uint8))
    merged = json.loads(json_line(frame, Detections(*parts, semantic=semantic, panoptic=Panoptic(ids, segments))))
    cat, road = merged["segments"]
    assert {key: value for key, value in cat.items() if key != "segmentation"} == {
        "label": "cat", "id": 1, "category_id": 17, "area": 2, "isthing": 1, "score": 0.75, "detection": 0
    }  # fmt: skip
    assert (road["label"], road["category_id"], road["area"], road["isthing"]) == ("road", 101, 4, 0)
    for row, number in ((cat, 1), (road, 3)):
        mask = decode_rle(row["segmentation"]["counts"], tuple(row["segmentation"]["size"]))
        assert torch.equal(mask, ids == number)
    labels = json.loads(json_line(frame, Detections(*parts, semantic=semantic)))["segments"]
    assert [(row["id"], row["label"], row["category_id"], row["area"]) for row in labels] == [
        (1, "things", None, 2),
        (2, "road", 101, 2),
    ]
    assert "segments" not in json.loads(json_line(frame, Detections(*parts)))
