import errno
import hashlib
import io
import os
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest
import torch

from boxwright.inference.predictor import Detector
from boxwright.weights import download as fetch
from boxwright.weights.zoo import DETECTRON2_ROWS, MMDETECTION_ROWS, TORCHVISION, zoo, zoo_entry

CONTENT = b"weights"
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def net(monkeypatch, tmp_path):
    """A network with one file at every address, and a cache of its own; gives the addresses that were asked for."""
    asked = []

    def give(request):
        asked.append(request.full_url)
        return answer(len(CONTENT))

    serve(monkeypatch, lambda _request, timeout: answer(len(CONTENT)), give)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return asked


def answer(length):
    """The response of a server: the content, with some length in its header."""
    sent = io.BytesIO(CONTENT)
    sent.headers = Message()
    sent.headers["Content-Length"] = str(length)
    sent.info = lambda: sent.headers
    return sent


def serve(monkeypatch, head, get):
    monkeypatch.setattr(fetch.urllib.request, "urlopen", head)
    monkeypatch.setattr(torch.hub, "urlopen", get)


def left_over(folder):
    return [file.name for file in folder.rglob("*") if file.is_file()]


def test_a_file_is_fetched_once_and_checked_again_when_used(net):
    place = fetch.fetched_file(f"https://example.org/a/mine.pth#sha256={SHA}")
    assert place.read_bytes() == CONTENT
    assert fetch.fetched_file("https://example.org/a/mine.pth") == place
    assert net == ["https://example.org/a/mine.pth"]
    place.write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"mine\.pth: its sha256 is .*mine\.pth\.sha256 says"):
        fetch.fetched_file("https://example.org/a/mine.pth")


@pytest.mark.parametrize(
    "address",
    [
        f"https://example.org/net-{'0' * 8}.pth",
        f"https://example.org/a.pth#sha256={'0' * 64}",
    ],
)
def test_a_file_of_another_checksum_is_not_kept(net, address, tmp_path):
    with pytest.raises(
        ValueError, match=rf"{address.split('#')[0]}: not the file .* \(expected \"0+\", got \"{SHA}\"\)"
    ):
        fetch.fetched_file(address)
    assert left_over(tmp_path) == []


def test_another_md5_than_that_of_its_name_is_refused(net):
    with pytest.raises(ValueError, match=r"its md5 is .* says 0+; remove the file"):
        fetch.fetched_file("detectron2://COCO/x/1/model_final_000000.pkl")


def test_the_digits_of_a_name_are_believed_where_they_are_right(net):
    assert fetch.fetched_file(f"https://example.org/net-{SHA[:8]}.pth").exists()
    place = fetch.fetched_file(f"detectron2://COCO/x/1/model_final_{MD5[:6]}.pkl")
    assert net[-1] == f"https://dl.fbaipublicfiles.com/detectron2/COCO/x/1/model_final_{MD5[:6]}.pkl"
    assert place.name == f"x_1_model_final_{MD5[:6]}.pkl"


def test_without_network_one_sentence_names_address_and_place(monkeypatch, tmp_path):
    def unreachable(_request, timeout=None):
        raise URLError("no route to host")

    serve(monkeypatch, unreachable, unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    place = r"\S+hub/checkpoints/fcos_resnet50_fpn_coco-\w+\.pth"
    with pytest.raises(OSError, match=rf"no network for torchvision/fcos\S+ .*: fetch https://\S+\.pth .* as {place}"):
        Detector.load("torchvision/fcos_resnet50_fpn")
    assert left_over(tmp_path) == []


def test_a_short_answer_is_no_file(net, monkeypatch, tmp_path):
    serve(monkeypatch, lambda _request, timeout: answer(99), lambda _request: answer(99))
    with pytest.raises(OSError, match="only 7 of 99 bytes came"):
        fetch.fetched_file("https://example.org/short.pth")
    assert left_over(tmp_path) == []


def test_a_connection_that_breaks_leaves_nothing(net, monkeypatch, tmp_path):
    def broken(_request):
        sent = answer(99)
        sent.read = lambda _size: (_ for _ in ()).throw(ConnectionResetError("reset by peer"))
        return sent

    serve(monkeypatch, lambda _request, timeout: answer(99), broken)
    with pytest.raises(OSError, match="reset by peer"):
        fetch.fetched_file("https://example.org/broken.pth")
    assert left_over(tmp_path) == []


def test_a_server_that_tells_no_length_is_asked_for_the_file(net, monkeypatch):
    def refused(request, timeout):
        raise HTTPError(request.full_url, 403, "Forbidden", Message(), None)

    monkeypatch.setattr(fetch.urllib.request, "urlopen", refused)
    assert fetch.fetched_file("https://example.org/net.pth").read_bytes() == CONTENT


def test_progress_goes_to_a_terminal_and_never_to_standard_output(net, monkeypatch, capsys):
    fetch.fetched_file("https://example.org/quiet.pth")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch.fetched_file("https://example.org/shown.pth")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "100%" in printed.err


def test_the_zoo_says_of_each_what_was_published():
    entries = {entry.name: entry for entry in zoo()}
    assert len(entries) == len(TORCHVISION) + len(DETECTRON2_ROWS) + len(MMDETECTION_ROWS) == 63
    assert entries["torchvision/fcos_resnet50_fpn"].ap == 39.2
    assert entries["detectron2/mask_rcnn_R_50_FPN_3x"].mask_ap == 37.2
    assert entries["detectron2/keypoint_rcnn_R_50_FPN_1x"].url.endswith(
        "/COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x/137261548/model_final_04e291.pkl"
    )
    keypoints = entries["torchvision/keypointrcnn_resnet50_fpn"]
    assert (keypoints.ap, keypoints.keypoint_ap) == (54.6, 65.0)
    assert keypoints.url.endswith("keypointrcnn_resnet50_fpn_coco-fc266e95.pth")
    assert entries["mmdetection/faster_rcnn_r50_fpn_1x_coco"].url.endswith(
        "/v2.0/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth"
    )
    assert fetch.is_remote("mmdetection/faster_rcnn_r50_fpn_1x_coco")
    assert all(entry.url.startswith("https://") and entry.licence and entry.parameters for entry in entries.values())
    with pytest.raises(
        ValueError, match=r"no detector 'torchvision/fcos_resnet5' in the zoo; did you mean torchvision/fcos"
    ):
        zoo_entry("torchvision/fcos_resnet5")


def test_a_full_disk_is_not_called_a_missing_network(net, monkeypatch):
    def full(_request):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch.hub, "urlopen", full)
    with pytest.raises(OSError, match=r"No space left on device: '\S+net\.pth'") as caught:
        fetch.fetched_file("https://example.org/net.pth")
    assert "network" not in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
