import errno
import hashlib
import io
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from boxwright.inference.predictor import Detector
from boxwright.weights import download as fetch
from boxwright.weights.zoo import DETECTRON2_ROWS, TORCHVISION, zoo, zoo_entry

CONTENT = b"weights"
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def net(monkeypatch, tmp_path):
    """A network with one file at every address, and a cache of its own; gives the addresses that were asked for."""
    asked = []

    class Answer(io.BytesIO):
        def __init__(self):
            super().__init__(CONTENT)
            self.headers = {"Content-Length": str(len(CONTENT))}

    def answer(url, timeout):
        asked.append(url)
        return Answer()

    monkeypatch.setattr(fetch.urllib.request, "urlopen", answer)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return asked


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
        f"https://example.org/net-{'0' * 8}.pth", "detectron2://COCO/x/1/model_final_000000.pkl",
        f"https://example.org/a.pth#sha256={'0' * 64}",
    ],
)  # fmt: skip
def test_another_checksum_is_refused(net, address):
    with pytest.raises(ValueError, match=r"its (sha256|md5) is .* says 0+; remove the file"):
        fetch.fetched_file(address)


def test_the_digits_of_a_name_are_believed_where_they_are_right(net):
    assert fetch.fetched_file(f"https://example.org/net-{SHA[:8]}.pth").exists()
    place = fetch.fetched_file(f"detectron2://COCO/x/1/model_final_{MD5[:6]}.pkl")
    assert net[-1] == f"https://dl.fbaipublicfiles.com/detectron2/COCO/x/1/model_final_{MD5[:6]}.pkl"
    assert place.name == f"x_1_model_final_{MD5[:6]}.pkl"


def test_without_network_one_sentence_names_address_and_place(monkeypatch, tmp_path):
    def unreachable(_url, timeout):
        raise URLError("no route to host")

    monkeypatch.setattr(fetch.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    place = r"\S+hub/checkpoints/fcos_resnet50_fpn_coco-\w+\.pth"
    with pytest.raises(OSError, match=rf"no network for torchvision/fcos\S+ .*: fetch https://\S+\.pth .* as {place}"):
        Detector.load("torchvision/fcos_resnet50_fpn")
    assert not list((tmp_path / "hub").rglob("*.partial"))


def test_a_short_answer_is_no_file(net, monkeypatch):
    monkeypatch.setattr(fetch, "_BLOCK", 3)
    answer = fetch.urllib.request.urlopen("https://x", timeout=1)
    answer.headers = {"Content-Length": "99"}
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda _url, timeout: answer)
    with pytest.raises(OSError, match="only 7 of 99 bytes came"):
        fetch.fetched_file("https://example.org/short.pth")


def test_the_zoo_says_of_each_what_was_published():
    entries = {entry.name: entry for entry in zoo()}
    assert len(entries) == len(TORCHVISION) + len(DETECTRON2_ROWS) == 35
    assert entries["torchvision/fcos_resnet50_fpn"].ap == 39.2
    assert entries["detectron2/mask_rcnn_R_50_FPN_3x"].mask_ap == 37.2
    assert all(entry.url.startswith("https://") and entry.licence and entry.parameters for entry in entries.values())
    with pytest.raises(
        ValueError, match=r"no detector 'torchvision/fcos_resnet5' in the zoo; did you mean torchvision/fcos"
    ):
        zoo_entry("torchvision/fcos_resnet5")


def test_a_full_disk_is_not_called_a_missing_network(net, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(OSError, match=r"No space left on device: '\S+net\.pth'") as caught:
        fetch.fetched_file("https://example.org/net.pth")
    assert "network" not in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
