"""What people write who come from other tools (`--epochs 50`, `--conf 0.4`, `val`), and what is meant by it here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

VERBS = {
    "val valid validate validation eval test": "evaluate",
    "detect infer inference track": "predict",
    "fit finetune fine-tune": "train",
    "check stats info analyze analyse": "inspect",
    "bench profile": "benchmark",
    "models configs config cfg list": "recipes",
    "deploy onnx": "export",
    "download": "zoo",
    "ui web server app": "serve",
}
"""Words of other tools, by the verb that does the same here."""

KEYS = ("model", "data", "optim", "schedule", "validation", "detect", "precision", "compile", "name", "reference")
"""Keys of a recipe that are words of other tools too: as settings they are what they say."""

_CHECKPOINT = "weights model checkpoint ckpt checkpoint-path config-file config cfg load-from w"
_CONFIDENCE = "conf conf-thres conf-thresh confidence confidence-threshold score-thr score-thresh threshold thresh"
_OVERLAP = "iou-thres iou-thresh iou-thr nms nms-thres nms-thr nms-threshold"
_SIZE = "imgsz img-size image-size img img-scale input-size resolution size"
_PLACE = "output output-dir out-dir save-dir work-dir project output-folder"
_FIRST = "the checkpoint, which is named first: boxwright {verb} {value} ..."
_FIXED_SIZE = "nothing: images are resized as the checkpoint's recipe says (data.resize)"
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
        "model arch config config-file cfg": "the recipe, which is named first: boxwright train {value} ...",
        "dataset data-path data-dir data-root dataset-dir": "--data {value}",
        _PLACE: "--runs {value}, and --name for the folder of this run",
        "checkpoint ckpt load-from finetune init-weights": "--weights {value}",
        "resume-from": "--resume {value}",
        "gpus gpu gpu-id num-gpus": "--device cuda:0, or for several torchrun --nproc-per-node N -m boxwright train",
        "eval-only test-only": "boxwright evaluate CHECKPOINT --data FOLDER",
        "opts cfg-options": "settings as they stand: optim.lr=0.01 schedule.epochs=50",
    },
    "predict": {
        _CHECKPOINT: _FIRST,
        "source input inputs images image path": "images, which are named after the checkpoint: boxwright predict "
        "CHECKPOINT {value}",
        _CONFIDENCE: "--score {value}", _OVERLAP + " iou": "--nms-iou {value}",
        "max-det max-dets max-per-img topk": "--max-detections {value}",
        "batch-size bs b": "--batch {value}", _SIZE: _FIXED_SIZE + "; --no-resize feeds them as they are",
        "save-txt": "--yolo", "save-json": "--json", "nosave no-save": "--no-draw",
        "show view-img visualize": "nothing: images are drawn into the folder --out, unless --no-draw is given",
        "half fp16 amp": "--precision fp16", _PLACE: "--out {value}",
    },
    "evaluate": {
        _CHECKPOINT: _FIRST, _CONFIDENCE + " score": "--score-threshold {value}", _OVERLAP: "--iou {value}",
        "max-det max-dets max-per-img": "--max-detections {value}", "batch-size bs b": "--batch {value}",
        _SIZE: _FIXED_SIZE, "half fp16 amp": "--precision fp16", "subset set task": "--split {value}",
        "annotations ann gt truth": "--ground-truth {value}", "results dt predictions pred": "--detections {value}",
        "dataset data-path data-dir data-root": "--data {value}", _PLACE + " save-json save-txt": "--save FOLDER",
    },
    "export": {
        _CHECKPOINT: _FIRST, "include to": "--format {value}", _PLACE + " output-file": "--out FILE",
        "int8": "--format openvino --precision int8 --calibration FOLDER",
        "half fp16 bf16": "--format openvino --precision bf16", _CONFIDENCE: "--score {value}",
        _OVERLAP + " iou": "--nms-iou {value}", "max-det": "--max-detections {value}",
        _SIZE + " dynamic batch batch-size": "nothing: images of any size and number go into the file",
        "simplify opset": "nothing: it is chosen", "dataset data-path": "--data {value}",
    },
}  # fmt: skip
"""By verb: options of other tools, and what is meant here; `{value}` is what was given."""
for _verb in ("benchmark", "serve", "explain", "proposals"):
    OPTIONS[_verb] = {_CHECKPOINT: _FIRST}


def meant(arguments: Sequence[str], known: dict[str, set[str]]) -> str | None:
    """The sentence for the first word of another tool in a command line without the program's name; None without one.

    `known` are the options of each verb of ours, with their dashes.

    >>> meant(["train", "fcos", "--epochs", "50"], {"train": {"--data"}})
    'train has no --epochs: say schedule.epochs=50; boxwright train --help lists what there is'
    """
    if not arguments:
        return None
    verb = arguments[0]
    if verb not in known:
        here = next((ours for words, ours in VERBS.items() if verb.lower() in words.split()), None)
        return here and f"there is no verb {verb}: say boxwright {here} ...; boxwright --help lists all verbs"
    for word, value in _words(arguments[1:], verb):
        name = word.lstrip("-").replace("_", "-").lower()
        said = next((text for words, text in OPTIONS.get(verb, {}).items() if name in words.split()), None)
        if said is not None and word not in known[verb]:
            say = said.format(verb=verb, value=value or "VALUE")
            say = f"it means {say}" if said.startswith(("nothing", "the ", "images", "settings")) else f"say {say}"
            return f"{verb} has no {word}: {say}; boxwright {verb} --help lists what there is"
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
