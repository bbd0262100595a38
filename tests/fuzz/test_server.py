"""The server on request bodies of all kinds: an answer or one sentence, never an internal error, and it goes on."""

from __future__ import annotations

import json
import random
from io import BytesIO
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from boxwright.checkpoint import Checkpoint
from boxwright.deploy.serve.server import build_app
from boxwright.deploy.serve.service import ServeOptions, Service
from boxwright.deploy.serve.uploads import Limits
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

pytestmark = pytest.mark.slow
BUDGET = 300
"""Mutated bodies of each kind."""


@pytest.fixture(scope="module")
def client() -> TestClient:
    torch.manual_seed(0)
    recipe = load_recipe(
        "fcos-small", ["model.fpn.channels=16", "model.head.stem_channels=[16]", "data.resize.size=64"]
    )
    weights = recipe.build_model(2).state_dict()
    detector = Detector(Checkpoint(recipe, Classes.named(["a", "b"]), weights, 0.5), "cpu")
    options = ServeOptions(limits=Limits(num_bytes=200_000, num_pixels=40_000, num_images=4))
    with TestClient(build_app(Service(detector, Path("tiny.pt"), options)), raise_server_exceptions=False) as client:
        yield client


def encoded(kind: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(file, kind)
    return file.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The data with bytes flipped, removed, repeated or inserted."""
    body = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(body) + 1)
        change = draw.randrange(4)
        if change == 0 and place < len(body):
            body[place] = draw.randrange(256)
        elif change == 1:
            del body[place : place + draw.randrange(40)]
        elif change == 2:
            body[place:place] = body[: draw.randrange(200)]
        else:
            body[place:place] = draw.randbytes(draw.randrange(40))
    return bytes(body)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_mutated_images(client: TestClient, kind: str) -> None:
    draw, whole = random.Random(kind), encoded(kind)
    for number in range(BUDGET):
        body = mutated(whole, draw)
        upload = {"files": [("files", (f"{number}.bin", body, "image/png"))]} if number % 2 else {"content": body}
        answer = client.post("/v1/detect", **upload)
        assert answer.status_code < 500, body[:200]
        json.loads(answer.text)
    assert client.post("/v1/detect", content=whole).status_code == 200


def test_bodies_that_are_no_form(client: TestClient) -> None:
    draw = random.Random(0)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    form = head + encoded("PNG") + b"\r\n--x--\r\n"
    for _ in range(BUDGET):
        body = mutated(form, draw)
        kind = draw.choice(["multipart/form-data; boundary=x", "multipart/form-data", "text/plain", ""])
        answer = client.post("/v1/detect", content=body, headers={"content-type": kind})
        assert answer.status_code < 500, body[:200]
