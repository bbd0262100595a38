"""Options and verbs of other tools (`--epochs 50`, `--conf 0.4`, `val`), and their equivalents here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

VERBS = {
    "val valid validate validation eval test": "evaluate",
    "detect infer inference": "predict",
    "fit finetune fine-tune": "train",
    "check stats info analyze analyse": "inspect",
    "bench profile": "benchmark",
    "models configs config cfg list": "recipes",
    "deploy onnx": "export",
    "download": "zoo",
    "ui web server app": "serve",
}
"""Verbs of other tools, with the equivalent here."""

KEYS = ("model", "data", "optim", "schedule", "validation", "detect", "precision", "compile", "name", "reference")
"""Keys of a recipe that are also options of other tools: as settings they are valid."""

_CHECKPOINT = "weights model checkpoint ckpt checkpoint-path config-file config cfg load-from w"
_CONFIDENCE = "conf conf-thres conf-thresh confidence confidence-threshold score-thr score-thresh threshold thresh"
_OVERLAP = "iou-thres iou-thresh iou-thr nms nms-thres nms-thr nms-threshold"
_SIZE = "imgsz img-size image-size img img-scale input-size resolution size"
_PLACE = "output output-dir out-dir save-dir work-dir project output-folder"
_FIRST = "the checkpoint, which comes first: boxwright {verb} {value} ..."
_FIXED_SIZE = "nothing: images are resized by the checkpoint's recipe (data.resize)"
OPTIONS: dict[str, dict[str, str]] = {
    "train": {
        "epochs epoch max-epochs num-epochs total-epochs": "schedule.epochs={value}",
        "steps iters iterations max-iter max-iters max-steps": "schedule.steps={value}",
        "batch batch-size bs b ims-per-batch samples-per-gpu": "data.batch_size={value}",
        _SIZE: "data.resize.size={value}",
        "lr lr0 learning-rate base-lr": "optim.lr={value}",
        "momentum": "optim.momentum={value}",
        "weight-decay wd": "optim.weight_decay={value}",
        "optimizer optimiser opt optim": "optim.kind={value}",
        "workers num-workers j": "data.workers={value}",
        "cache cache-ram": "data.cache=true",
        "backbone": "model.backbone={value}",
        "pretrained": "model.backbone.weights={value}, or --weights FILE to start from a detector",
        "amp half fp16": "precision=fp16",
        "patience": "validation.patience={value}",
        "eval-interval val-interval eval-period": "validation.every={value}",
        "accumulate grad-accum-steps": "optim.accumulate={value}",
        "warmup warmup-iters warmup-steps": "schedule.warmup_steps={value}",
        "mosaic": "data.augment.mosaic={value}",
        "ema": "ema_decay=0.999",
        "model arch config config-file cfg": "the recipe, which comes first: boxwright train {value} ...",
        "dataset data-path data-dir data-root dataset-dir": "--data {value}",
        _PLACE: "--runs {value}, and --name for the folder of this run",
        "checkpoint ckpt load-from finetune init-weights": "--weights {value}",
        "resume-from": "--resume {value}",
        "gpu gpu-id": "--device cuda:0, or for several --num-gpus N",
        "gpus nproc-per-node nproc num-processes": "--num-gpus {value}",
        "eval-only test-only": "boxwright evaluate CHECKPOINT --data FOLDER",
        "opts cfg-options": "settings without an option: optim.lr=0.01 schedule.epochs=50",
    },
    "predict": {
        _CHECKPOINT: _FIRST,
        "source input inputs images image path": "images, which come after the checkpoint: boxwright predict "
        "CHECKPOINT {value}",
        _CONFIDENCE: "--score {value}", _OVERLAP + " iou": "--nms-iou {value}",
        "max-det max-dets max-per-img topk": "--max-detections {value}",
        "batch-size bs b": "--batch {value}", _SIZE: _FIXED_SIZE + "; --no-resize keeps their size",
        "save-txt": "--format yolo", "save-json": "--format json", "nosave no-save": "--no-draw",
        "show view-img visualize": "nothing: images are drawn into the folder --out, unless --no-draw is given",
        "half fp16 amp": "--precision fp16", _PLACE: "--out {value}",
    },
    "track": {
        _CHECKPOINT: _FIRST, _CONFIDENCE: "--score {value}", _OVERLAP + " iou": "--nms-iou {value}",
        "tracking-method tracking-algorithm": "--tracker {value}", "vid-stride stride": "--step {value}",
        "nosave no-save": "--no-draw", "half fp16 amp": "--precision fp16", _PLACE: "--out {value}",
    },
    "evaluate": {
        _CHECKPOINT: _FIRST, _CONFIDENCE + " score": "--score-threshold {value}", _OVERLAP: "--iou {value}",
        "max-det max-dets max-per-img": "--max-detections {value}", "batch-size bs b": "--batch {value}",
        _SIZE: _FIXED_SIZE, "half fp16 amp": "--precision fp16", "subset set task": "--split {value}",
        "annotations ann gt": "--ground-truth {value}", "results dt predictions pred": "--detections {value}",
        "dataset data-path data-dir data-root": "--data {value}", _PLACE + " save-json save-txt": "--save FOLDER",
    },
    "export": {
        _CHECKPOINT: _FIRST, "include to": "--format {value}", _PLACE + " output-file": "--out FILE",
        "int8": "--format openvino --precision int8 --calibration FOLDER",
        "half fp16 bf16": "--format openvino --precision bf16", _CONFIDENCE: "--score {value}",
        _OVERLAP + " iou": "--nms-iou {value}", "max-det": "--max-detections {value}",
        _SIZE + " dynamic batch batch-size": "nothing: the file accepts images of any size and number",
        "simplify opset": "nothing: it is chosen automatically", "dataset data-path": "--data {value}",
    },
}  # fmt: skip
"""By verb: options of other tools, and their equivalents here; `{value}` is the given value."""
for _verb in ("benchmark", "serve", "explain", "proposals"):
    OPTIONS[_verb] = {_CHECKPOINT: _FIRST}


def meant(arguments: Sequence[str], known: dict[str, set[str]]) -> str | None:
    """A message on the first option or verb of another tool in a command line without the program's name, or None.

    `known` are the options of each of our verbs, with their dashes.

    >>> meant(["train", "fcos", "--epochs", "50"], {"train": {"--data"}})
    'train has no --epochs: use schedule.epochs=50; boxwright train --help lists all options'
    """
    if not arguments:
        return None
    verb = arguments[0]
    if verb not in known:
        here = next((ours for words, ours in VERBS.items() if verb.lower() in words.split()), None)
        return here and f"there is no verb {verb}: use boxwright {here} ...; boxwright --help lists all verbs"
    for word, value in _words(arguments[1:], verb):
        name = word.lstrip("-").replace("_", "-").lower()
        ours = next((text for words, text in OPTIONS.get(verb, {}).items() if name in words.split()), None)
        if ours is not None and word not in known[verb]:
            advice = ours.format(verb=verb, value=value or "VALUE")
            if ours.startswith("nothing: "):
                advice = f"it is not needed, {advice.removeprefix('nothing: ')}"
            elif ours.startswith(("the ", "images", "settings")):
                advice = f"it means {advice}"
            else:
                advice = f"use {advice}"
            return f"{verb} has no {word}: {advice}; boxwright {verb} --help lists all options"
    return None


def _words(arguments: Sequence[str], verb: str) -> Iterator[tuple[str, str]]:
    """The options in a command line with their values; of `train` also words such as epochs=50."""
    for index, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if word == "--":
            return
        if name.startswith("-"):
            yield name, value if equals else "" if following.startswith("-") else following
        elif equals and verb == "train" and "." not in name and name not in KEYS:
            yield name, value
