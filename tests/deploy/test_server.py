"""The server: `Detector.predict` over HTTP, requests together, and one sentence for whatever is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from whole_masks import decode_rle, rasterise_polygons

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.deploy.serve.server import build_app, serve
from boxwright.deploy.serve.service import ServeOptions, Service
from boxwright.deploy.serve.uploads import Limits
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Skeleton
from boxwright.visualize.drawing import class_colour
from boxwright.visualize.stuff import THINGS_COLOUR

LIMITS = Limits(num_bytes=200_000, num_pixels=40_000, num_images=8)


def png(array):
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def client_of(detector, path, **options):
    return TestClient(build_app(Service(detector, path, ServeOptions(**{"limits": LIMITS, **options}))))


@pytest.fixture(scope="module")
def served(detector, checkpoint_file):
    with client_of(detector, checkpoint_file) as client:
        yield client


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """The file of a detector with keypoints, of random weights."""
    torch.manual_seed(0)
    small = ("model.backbone.widths=[4,4,4,1]", "model.fpn.channels=8", "model.rpn.stem_channels=[8]",
             "model.box.fc_channels=[8]", "model.keypoint.num_keypoints=3", "model.keypoint.conv_channels=[8]",
             "model.keypoint.pool_size=4", "data.resize.size=96")  # fmt: skip
    recipe = load_recipe("keypoint-rcnn-small", small)
    path = tmp_path_factory.mktemp("points") / "points.pt"
    face = Skeleton(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))
    save_checkpoint(Checkpoint(recipe, Classes(("face",), (3,), face), recipe.build_model(1).state_dict(), 0.0), path)
    return path


OF_PIXELS = ("model.backbone.widths=[4,4,4,1]", "model.fpn.channels=8", "data.resize.size=96",
             "model.semantic.num_classes=3", "model.semantic.channels=8")  # fmt: skip


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    """The file of a model with panoptic maps, of random weights: everything becomes a segment."""
    torch.manual_seed(0)
    small = (*OF_PIXELS, "model.rpn.stem_channels=[8]", "model.box.fc_channels=[8]", "model.mask.conv_channels=[8]",
             "model.mask.upsampled_channels=8", "model.panoptic.min_score=0.0", "model.panoptic.min_stuff_area=0",
             "model.panoptic.max_overlap=0.9")  # fmt: skip
    recipe = load_recipe("panoptic-fpn-small", small)
    path = tmp_path_factory.mktemp("panoptic") / "panoptic.pt"
    classes = Classes(("cat", "dog"), (4, 9), stuff=("sky", "road"), stuff_ids=(30, 31))
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(2).state_dict(), 0.0), path)
    return path


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The file of a model with semantic maps only, of random weights."""
    torch.manual_seed(0)
    recipe = load_recipe("semantic-fpn-small", OF_PIXELS)
    path = tmp_path_factory.mktemp("pixels") / "pixels.pt"
    classes = Classes((), (), stuff=("sky", "road", "wall"), stuff_ids=(7, 3, 5))
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(0).state_dict(), 0.0), path)
    return path


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A detector with masks, of random weights."""
    torch.manual_seed(0)
    small = ("model.backbone=mobilenet_v3_small", "model.fpn.channels=16", "model.head.stem_channels=[16]",
             "model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8", "data.resize.size=96")  # fmt: skip
    recipe = load_recipe("fcos-mask-small", small)
    model = recipe.build_model(2)
    path = tmp_path_factory.mktemp("masks") / "masks.pt"
    save_checkpoint(Checkpoint(recipe, Classes(("a", "b"), (1, 5)), model.state_dict(), 0.0), path)
    with client_of(Detector.load(path, "cpu", precision="fp32"), path) as client:
        yield client


def assert_is(answer, found):
    """The JSON of an image is what `predict` found in it."""
    assert (answer["height"], answer["width"]) == found.size_hw
    rows = answer["detections"]
    assert [row["label"] for row in rows] == found.names
    assert [row["category_id"] for row in rows] == [row["category_id"] for row in found.to_coco("")]
    assert [row["score"] for row in rows] == pytest.approx(found.scores.tolist(), abs=1e-5)
    assert torch.tensor([row["box"] for row in rows]).numpy() == pytest.approx(found.boxes.numpy(), abs=1e-3)
    assert answer["milliseconds"] > 0


class TestAnswers:
    def test_a_body_is_answered_with_what_predict_finds(self, served, detector, images):
        for image in images:
            found = detector.predict(image)[0]
            assert len(found)
            done = served.post("/v1/detect", content=png(image), headers={"Content-Type": "image/png"})
            assert done.status_code == 200
            assert_is(done.json(), found)

    def test_settings_are_those_of_predict(self, served, detector, images):
        found = detector.predict(images[0], score=0.1, max_detections=7)[0]
        assert len(found) == 7
        assert_is(served.post("/v1/detect?score=0.1&max_detections=7", content=png(images[0])).json(), found)

    def test_a_form_is_answered_file_by_file(self, served, detector, images):
        files = [("file", (f"folder/{index}.png", png(one))) for index, one in enumerate(images)]
        broken = ("file", ("broken.png", png(images[0])[:200]))
        done = served.post("/v1/detect", files=[files[0], broken, *files[1:]])
        assert done.status_code == 200
        answers = done.json()["images"]
        assert [one["file"] for one in answers] == ["0.png", "broken.png", "1.png", "2.png", "3.png", "4.png"]
        assert answers.pop(1)["error"].startswith("broken.png: the image is damaged or cut short")
        for one, found in zip(answers, detector.predict(images, batch=1), strict=True):
            assert_is(one, found)
        alone = served.post("/v1/detect", files=[broken])
        assert alone.status_code == 400
        assert alone.json()["error"].startswith("broken.png: the image is damaged")

    def test_images_lie_as_they_are_looked_at(self, served, detector, images):
        file = BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(images[0]).save(file, "JPEG", exif=exif, quality=95)
        answer = served.post("/v1/detect", content=file.getvalue(), headers={"Content-Type": "image/jpeg"}).json()
        assert (answer["height"], answer["width"]) == (128, 96)
        assert_is(answer, detector.predict(Image.open(file))[0])

    def test_a_jpeg_a_few_bytes_short_is_answered_and_said(self, served, images):
        file = BytesIO()
        Image.fromarray(images[1]).save(file, "JPEG", quality=95)
        answer = served.post("/v1/detect", content=file.getvalue()[:-20]).json()
        assert (answer["width"], answer["height"]) == (128, 96)
        assert "the JPEG is cut short" in answer["note"]
        assert "note" not in served.post("/v1/detect", content=file.getvalue()).json()
        assert served.post("/v1/detect", content=file.getvalue()[: len(file.getvalue()) // 2]).status_code == 400

    def test_values_of_16_bits_are_scaled_as_the_checkpoint_was_trained(self, checkpoint_file, images):
        detector = Detector.load(checkpoint_file, "cpu", precision="fp32")
        detector.value_range = (20_000, 20_510)
        grey = images[2][:, :, 0]
        with client_of(detector, checkpoint_file) as client:
            answer = client.post("/v1/detect", content=png(20_000 + 2 * grey.astype(np.uint16))).json()
        assert_is(answer, detector.predict(grey)[0])

    def test_postscript_is_not_opened_whatever_it_is_called(self, served, monkeypatch):
        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
        loop = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n"
        for body in (loop, b"\xc5\xd0\xd3\xc6" + bytes(28) + loop):
            answer = served.post("/v1/detect", files={"file": ("a.jpg", body, "image/jpeg")})
            assert answer.status_code == 400
            assert "not a JPEG, PNG, WebP, BMP, GIF or TIFF image (nor AVIF)" in answer.json()["error"]

    def test_masks_are_run_lengths_or_polygons_or_none(self, masks, images):
        def of(query):
            return masks.post(f"/v1/detect?score=0.004&max_detections=6{query}", content=png(images[0])).json()

        coded, outlined, plain = of(""), of("&masks=polygons"), of("&masks=none")
        assert len(coded["detections"]) == len(outlined["detections"]) == 6
        for one, other in zip(coded["detections"], outlined["detections"], strict=True):
            mask = decode_rle(one["segmentation"]["counts"], tuple(one["segmentation"]["size"]))
            assert mask.shape == (96, 128)
            assert torch.equal(rasterise_polygons(other["segmentation"], (96, 128)), mask)
        assert any(one["segmentation"] for one in outlined["detections"])
        assert not any("segmentation" in one for one in plain["detections"])

    def test_keypoints_are_x_y_score_in_pixels_and_the_model_says_what_they_are_called(self, points, images):
        detector = Detector.load(points, "cpu", precision="fp32")
        with client_of(detector, points) as client:
            rows = client.post("/v1/detect?score=0&max_detections=4", content=png(images[0])).json()["detections"]
            told, other = (
                client.get("/v1/model").json()["keypoints"],
                client.post("/v1/detect?masks=rle", content=png(images[0])),
            )
        (found,) = detector.predict([torch.from_numpy(images[0]).permute(2, 0, 1)], score=0, max_detections=4)
        assert len(rows) == 4
        torch.testing.assert_close(torch.tensor([row["keypoints"] for row in rows]), found.keypoints)
        assert told == {"names": ["nose", "left_eye", "right_eye"], "lines": [[0, 1], [0, 2]]}
        assert (other.status_code, "predicts no masks" in other.json()["error"]) == (422, True)

    def test_segments_are_those_of_the_panoptic_map_and_maps_are_png_files(self, panoptic, images):
        detector = Detector.load(panoptic, "cpu", precision="fp32")
        with client_of(detector, panoptic) as client:
            coded, outlined, plain, mapped = (
                client.post(f"/v1/detect?score=0{query}", content=png(images[0])).json()
                for query in ("", "&masks=polygons", "&masks=none", "&maps=png")
            )
            told = client.get("/v1/model").json()
        (found,) = detector.predict(images[0], score=0)
        assert [one.thing for one in found.panoptic.segments] == sorted(
            (one.thing for one in found.panoptic.segments), reverse=True
        )
        assert {one.thing for one in found.panoptic.segments} == {True, False}
        names = {True: ("cat", "dog"), False: ("sky", "road")}
        ids = {True: (4, 9), False: (30, 31)}
        for one, row, other in zip(found.panoptic.segments, coded["segments"], outlined["segments"], strict=True):
            mask = decode_rle(row["segmentation"]["counts"], tuple(row["segmentation"]["size"]))
            assert torch.equal(mask, found.panoptic.mask(one.id))
            assert torch.equal(rasterise_polygons(other["segmentation"], (96, 128)), mask)
            assert (row["label"], row["category_id"]) == (names[one.thing][one.label], ids[one.thing][one.label])
            assert (row["area"], row["isthing"], row.get("detection")) == (int(mask.sum()), one.thing, one.row)
        assert not any("segmentation" in one for one in plain["segments"] + plain["detections"])
        assert not {"semantic", "panoptic"} & {*coded}
        semantic, merged = (
            np.asarray(Image.open(BytesIO(b64decode(mapped[name])))).astype(int) for name in ("semantic", "panoptic")
        )
        assert np.array_equal(semantic, found.semantic.numpy())
        assert np.array_equal(merged @ [1, 256, 65536], found.panoptic.map.numpy())
        assert (told["masks"], told["segments"]) == (True, True)
        listed = [("things", None), ("sky", 30), ("road", 31)]
        assert [(one["label"], one["category_id"]) for one in told["stuff"]] == listed
        colours = [one["colour"] for one in told["classes"] + told["stuff"]]
        drawn = [class_colour(number) for number in (0, 1, THINGS_COLOUR, 2, 3)]  # as `predict` draws them
        assert colours == ["#{:02x}{:02x}{:02x}".format(*one) for one in drawn]

    def test_a_model_of_pixels_answers_with_a_segment_for_each_label(self, pixels, images):
        detector = Detector.load(pixels, "cpu", precision="fp32")
        with client_of(detector, pixels) as client:
            answer = client.post("/v1/detect", content=png(images[0])).json()
            mapped = client.post("/v1/detect?maps=png&masks=none", content=png(images[0])).json()
            told = client.get("/v1/model").json()
        (found,) = detector.predict(images[0])
        assert answer["detections"] == []
        labels = found.semantic.unique().tolist()
        assert len(labels) > 1
        assert [row["label"] for row in answer["segments"]] == [("sky", "road", "wall")[label] for label in labels]
        assert [row["category_id"] for row in answer["segments"]] == [(7, 3, 5)[label] for label in labels]
        for row, label in zip(answer["segments"], labels, strict=True):
            mask = decode_rle(row["segmentation"]["counts"], tuple(row["segmentation"]["size"]))
            assert torch.equal(mask, found.semantic == label)
            assert (row["area"], row["isthing"]) == (int(mask.sum()), 0)
        assert np.array_equal(np.asarray(Image.open(BytesIO(b64decode(mapped["semantic"])))), found.semantic.numpy())
        assert "panoptic" not in mapped
        assert (told["classes"], told["masks"], told["segments"]) == ([], False, True)
        assert [one["label"] for one in told["stuff"]] == ["sky", "road", "wall"]

    def test_a_model_of_pixels_lists_no_objects_that_it_never_finds(self, pixels, tmp_path):
        detector = Detector.load(pixels, "cpu", precision="fp32")
        classes = Classes(("cat", "dog"), (4, 9), stuff=("sky", "road"))  # of data with objects: label 0 is any of them
        checkpoint = Checkpoint(detector.recipe, classes, detector.recipe.build_model(0).state_dict(), 0.0)
        save_checkpoint(checkpoint, tmp_path / "things.pt")
        with client_of(Detector.load(tmp_path / "things.pt", "cpu", precision="fp32"), pixels) as client:
            told = client.get("/v1/model").json()
        assert told["classes"] == []
        assert [one["label"] for one in told["stuff"]] == ["things", "sky", "road"]

    def test_the_model_says_what_it_is(self, served, masks, detector):
        told = served.get("/v1/model").json()
        assert (told["name"], told["recipe"], told["detector"]) == ("tiny.pt", "fcos-small", "fcos")
        assert [(one["label"], one["category_id"]) for one in told["classes"]] == [("cell", 3), ("dot", 7), ("ring", 1)]
        assert all(re.fullmatch("#[0-9a-f]{6}", one["colour"]) for one in told["classes"])
        assert (told["score"], told["runtime"], told["precision"], told["device"]) == (0.6, "torch", "fp32", "cpu")
        assert (told["masks"], masks.get("/v1/model").json()["masks"]) == (False, True)
        assert (told["segments"], told["stuff"]) == (False, [])
        assert told["keypoints"] is None
        assert told["limits"] == {"bytes": 200_000, "pixels": 40_000, "images": 8}
        assert served.get("/healthz").json() == {"status": "ok"}

    def test_an_exported_file_is_served_as_its_checkpoint(self, exported, images):
        file = Detector.load(exported["onnx"], "cpu")
        with client_of(file, exported["onnx"], score=0.5) as client:
            assert_is(client.post("/v1/detect", content=png(images[2])).json(), file.predict(images[2], score=0.5)[0])
            told = client.get("/v1/model").json()
            assert (told["runtime"], told["precision"], told["least_score"]) == ("onnxruntime", "fp32", 0.05)
            assert told["score"] == 0.5
            done = client.post("/v1/detect?score=0.01", content=png(images[0]))
        assert done.status_code == 422
        assert done.json()["error"].startswith("tiny.onnx gives nothing below a score of 0.05, got 0.01")


class TestPage:
    def test_it_needs_nothing_from_elsewhere(self, served):
        done = served.get("/")
        assert done.headers["content-type"] == "text/html; charset=utf-8"
        assert done.headers["content-security-policy"].startswith("default-src 'none'")
        addresses = re.findall(r"\w+://[^\s\"'`]+", done.text)
        assert addresses == ["http://www.w3.org/2000/svg"]  # a name, which is not fetched
        assert "<script src" not in done.text
        assert "innerHTML" not in done.text  # names of classes are text, whatever they hold

    def test_pages_that_load_scripts_from_elsewhere_are_off(self, served):
        assert served.get("/docs").status_code == served.get("/redoc").status_code == 404
        told = served.get("/openapi.json").json()
        assert set(told["paths"]) == {"/healthz", "/v1/model", "/v1/detect"}
        assert "multipart/form-data" in told["paths"]["/v1/detect"]["post"]["requestBody"]["content"]


@pytest.mark.parametrize(
    ("status", "sentence", "path", "body", "kind"),
    [
        (400, "image: the image is empty (0 bytes)", "", b"", "image/png"),
        (400, "image: not a JPEG, PNG, WebP, BMP, GIF or TIFF image", "", b"%!PS-Adobe-3.0 EPSF-3.0", "image/png"),
        (400, "image: not an image that can be read", "", b"\xff\xd8\xff nothing", "image/jpeg"),
        (400, "the form: expected files only", "", b"nonsense", "multipart/form-data"),
        (413, "the request is larger than 0.2 MB", "", b"x" * 200_001, "application/octet-stream"),
        (413, "image: 300 x 200 pixels are more than the limit of 40000", "",
         png(np.zeros((200, 300, 3), np.uint8)), "image/png"),
        (415, "Content-Type: expected image/jpeg", "", b"{}", "application/json"),
        (422, "score: should be less than or equal to 1, got 1.5", "?score=1.5", b"", "image/png"),
        (422, "score: should be a finite number, got nan", "?score=nan", b"", "image/png"),
        (422, "max_detections: should be greater than or equal to 1, got 0", "?max_detections=0", b"", "image/png"),
        (422, "masks: should be 'rle', 'polygons' or 'none', got all", "?masks=all", b"", "image/png"),
        (422, "masks: tiny.pt predicts no masks", "?masks=rle", b"", "image/png"),
        (422, "maps: should be 'png', got all", "?maps=all", b"", "image/png"),
        (422, "maps: tiny.pt labels no pixels; leave maps=png out", "?maps=png", b"", "image/png"),
        (404, "POST /v1/detect/no: Not Found", "/no", b"", "image/png"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(served, status, sentence, path, body, kind):
    done = served.post(f"/v1/detect{path}", content=body, headers={"Content-Type": kind})
    assert done.status_code == status, done.text
    (key, said), = done.json().items()  # fmt: skip
    assert key == "error"
    assert said.startswith(sentence)
    assert "\n" not in said


def test_a_body_without_a_length_is_counted_as_it_comes(served):
    done = served.post("/v1/detect", content=(b"x" * 50_000 for _ in range(100)), headers={"Content-Type": "image/png"})
    assert done.status_code == 413


def test_a_wrong_method_and_wrong_fields_are_said(served):
    assert served.get("/v1/detect").json() == {"error": "GET /v1/detect: Method Not Allowed"}
    done = served.post("/v1/detect", data={"score": "0.5"}, files=[("file", ("a.png", b"x"))])
    assert done.status_code == 400
    assert done.json()["error"].startswith("the form: expected files only")


class Gate:
    """An engine that counts its calls by their images, waits to be let through, and fails on a call if told to."""

    def __init__(self, engine):
        self._engine = engine
        self.sizes, self.open, self.entered = [], threading.Event(), threading.Event()
        self.fails = lambda images: False

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def __call__(self, images, *rest):
        self.sizes.append(len(images))
        self.entered.set()
        assert self.open.wait(30)
        if self.fails(images):
            raise RuntimeError("out of memory at /secret/place")
        return self._engine(images, *rest)


@pytest.fixture
def gate(checkpoint_file):
    detector = Detector.load(checkpoint_file, "cpu", precision="fp32")
    detector.engine = Gate(detector.engine)
    detector.path = checkpoint_file
    return detector


def together(client, detector, bodies, count):
    """Post a first image, which holds the engine, then all bodies; let it through when `count` wait."""
    with ThreadPoolExecutor(len(bodies) + 1) as pool:
        first = pool.submit(client.post, "/v1/detect", content=bodies[0])
        assert detector.engine.entered.wait(30)
        rest = [pool.submit(client.post, "/v1/detect", content=body) for body in bodies]
        queue = client.app.state.queue
        for _ in range(600):
            if queue.qsize() >= count:
                break
            threading.Event().wait(0.05)
        assert queue.qsize() == count
        detector.engine.open.set()
        return [one.result() for one in [first, *rest]]


class TestTogether:
    def test_requests_that_wait_are_detected_in_one_pass_if_alike(self, gate, detector, images):
        bodies = [png(images[index]) for index in (0, 1, 0, 2)]
        with client_with_queue(gate) as client:
            answers = together(client, gate, bodies, 4)
        assert gate.engine.sizes == [1, 3, 1]
        for done, index in zip(answers, (0, 0, 1, 0, 2), strict=True):
            assert_is(done.json(), detector.predict(images[index])[0])

    def test_a_batch_is_no_larger_than_asked_for(self, gate, images):
        with client_with_queue(gate, batch=2) as client:
            answers = together(client, gate, [png(images[0])] * 5, 5)
        assert gate.engine.sizes == [1, 2, 2, 1]
        assert {done.status_code for done in answers} == {200}

    def test_an_image_on_which_the_detector_fails_fails_alone(self, gate, detector, images, caplog):
        bodies = [png(images[0]), png(np.zeros_like(images[0])), png(images[1])]
        gate.engine.fails = lambda images: bool((images.pixels.flatten(1).sum(1) == 0).any())
        with client_with_queue(gate) as client:
            answers = together(client, gate, bodies, 3)
        assert gate.engine.sizes == [1, 3, 1, 1, 1]
        assert [done.status_code for done in answers] == [200, 200, 500, 200]
        assert answers[2].json() == {"error": "image: the detector failed; the server's log says why"}
        assert "out of memory" in caplog.text
        assert_is(answers[3].json(), detector.predict(images[1])[0])

    def test_a_broken_image_does_not_reach_the_others(self, gate, images):
        bodies = [png(images[0]), png(images[0])[:100], png(images[1])]
        with client_with_queue(gate) as client:
            answers = together(client, gate, bodies, 2)
        assert [done.status_code for done in answers] == [200, 200, 400, 200]
        assert gate.engine.sizes == [1, 2]

    def test_more_than_the_places_are_sent_away(self, gate, images):
        body = png(images[0])
        with client_with_queue(gate) as client:
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(client.post, "/v1/detect", content=body)
                assert gate.engine.entered.wait(30)
                full = client.post("/v1/detect", files=[("file", (f"{k}.png", body)) for k in range(8)])
                gate.engine.open.set()
                assert first.result().status_code == 200
            assert full.status_code == 503
            assert full.headers["retry-after"] == "1"
            assert "try again in a second" in full.json()["error"]
            many = client.post("/v1/detect", files=[("file", (f"{k}.png", body)) for k in range(9)])
            assert many.status_code == 400
            assert "at most 8" in many.json()["error"]
            assert client.post("/v1/detect", content=body).status_code == 200  # all places are free again


def client_with_queue(detector, **options):
    """A client whose application shows the queue of its service."""
    service = Service(detector, detector.path, ServeOptions(limits=LIMITS, **options))
    app = build_app(service)
    app.state.queue = service._batcher._queue
    return TestClient(app)


class TestProcess:
    def test_it_starts_answers_and_ends_on_sigterm(self, checkpoint_file, detector, images):
        process = subprocess.Popen(
            [sys.executable, "-m", "boxwright", "serve", str(checkpoint_file), "--port", "0", "--device", "cpu",
             "--precision", "fp32"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            request = urllib.request.Request(f"{address}/v1/detect", png(images[0]), {"Content-Type": "image/png"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert_is(json.load(answer), detector.predict(images[0])[0])
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, out) == (0, "")
        assert err == "boxwright: tiny.pt (fcos, 3 classes, torch fp32 on cpu); stop it with Ctrl-C\n"

    def test_a_port_in_use_is_said_before_anything_is_loaded(self, tmp_path):
        import socket

        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(
                ValueError, match=f"port {port} of 127.0.0.1 is not available .*already in use"
            ) as caught:
                serve(tmp_path / "none.pt", ServeOptions(), host="127.0.0.1", port=port, device="cpu", precision="auto",
                      ready=print)  # fmt: skip
        assert "--port" in str(caught.value)
        with pytest.raises(ValueError, match=r"--host 192\.0\.2\.999: this machine has no such address"):
            serve(tmp_path / "none.pt", ServeOptions(), host="192.0.2.999", port=0, device="cpu", precision="auto",
                  ready=print)  # fmt: skip
