"""The verb `explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

OF_PREDICTIONS = ("detection", "class_name", "score", "device")
"""Options that a recipe, which predicts nothing, refuses."""
OF_A_BATCH = ("seed", "images")
"""Options for a recipe without an image."""


def explain(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RECIPE",
            help="A boxwright checkpoint, such as runs/NAME/weights/best.pt; or a recipe, for who would own what "
            "before training.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE] [SETTINGS]",
            help="An image; with --data its file name is enough. A recipe needs none, and may have settings: "
            "data.resize.size=320 ...",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled images (VOC, COCO, LVIS, Cityscapes, CVAT, YOLO or DOTA) with its ground truth."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Search this split only: train, val, test, ...; for a recipe's batch, train if not given."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="The selection or merge of classes that the model was, or would be, trained with."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; a new explained/NAME, NAME-2, ... if not given.")
    ] = None,
    box: Annotated[int | None, typer.Option(help="Index of the ground-truth box to explain; 0 if not given.")] = None,
    detection: Annotated[
        int | None, typer.Option(help="Index of the detection to explain; 0, the best, if not given.")
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Draw the class maps of this class; the best class, or all, if not given."),
    ] = None,
    score: Annotated[
        float | None, typer.Option(help="Score threshold of detections; the checkpoint's own if not given.")
    ] = None,
    proposals: Annotated[
        Path | None, typer.Option(help="Proposal file for Fast R-CNN, as boxwright proposals writes it.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Images of a recipe's first batch that are drawn; all of them are counted.")
    ] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the run whose first batch is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Draw what a model sees in an image, and who owns what: locations, anchors, scores, proposals, keypoints, maps ...

    Without --data there is no ground truth, and only predictions are drawn. With a recipe in place of a checkpoint
    nothing is predicted: the first batch of its training is drawn, or IMAGE. The explanation in words is printed.
    """
    from boxwright.recipes import is_recipe
    from boxwright.writing import printable

    given = _given(context)
    image, settings = _image_and_settings(words or ())
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"--score: expected 0 to 1, got {score}")
    if is_recipe(source):
        _check_recipe_call(source, data, image, given)
        lines, folder, written = _of_recipe(
            source, settings, image, data, out, classes=classes, split=split, box=box, images=images, seed=seed,
            proposals=proposals,
        )  # fmt: skip
    else:
        _check_checkpoint_call(source, data, image, settings, given)
        lines, folder, written = _of_checkpoint(
            source, str(image), data, out, classes=classes, split=split, box=box, detection=detection,
            class_name=class_name, score=score, proposals=proposals, device=device,
        )  # fmt: skip
    typer.echo("\n".join(map(printable, lines)))
    names = ", ".join(file.name for file in written)
    typer.echo("\n" + printable(f"Images in {folder}: {names}"))


def _given(context: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _image_and_settings(words: Sequence[str]) -> tuple[str | None, list[str]]:
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    images = [word for word in words if word not in settings]
    if len(images) > 1:
        raise ValueError(f"explain draws one image, got {len(images)}: {', '.join(images)}")
    return (images[0] if images else None), settings


def _flag(name: str) -> str:
    return "--class" if name == "class_name" else f"--{name}"


def _check_recipe_call(source: str, data: Path | None, image: str | None, given: set[str]) -> None:
    refused = [_flag(name) for name in OF_PREDICTIONS if name in given]
    if refused:
        raise ValueError(f"{', '.join(refused)}: {source} is a recipe and predicts nothing; give a checkpoint")
    if data is None:
        run = f"; for the checkpoint of that folder write ./{source}" if Path(source).is_dir() else ""
        raise ValueError(f"explain {source}: a recipe is explained by labelled images: give --data FOLDER{run}")
    if image is None and "box" in given:
        raise ValueError("--box is for one image: name it after the recipe")
    if image is not None and (refused := [_flag(name) for name in OF_A_BATCH if name in given]):
        raise ValueError(f"{', '.join(refused)}: for the first batch of a recipe; leave the image out")


def _check_checkpoint_call(
    source: str, data: Path | None, image: str | None, settings: list[str], given: set[str]
) -> None:
    from boxwright.recipes import load_recipe
    from boxwright.weights.download import is_remote

    if not is_remote(source) and not Path(source).exists() and not Path(source).suffix:
        try:
            load_recipe(source)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{source}: there is no such checkpoint, and {error}") from None
    if settings:
        raise ValueError(f"{settings[0]}: a checkpoint has its settings; only a recipe takes others")
    if image is None:
        raise ValueError(f"explain {source}: which image? A checkpoint is explained by one: give IMAGE")
    if refused := [_flag(name) for name in OF_A_BATCH if name in given]:
        raise ValueError(f"{', '.join(refused)}: for the first batch of a recipe, and {source} is a checkpoint")
    if data is None and given & {"split", "classes", "box"}:
        raise ValueError("--split, --classes and --box are about the ground truth: give --data FOLDER too")


def _free_place(out: Path | None, name: str, data: Path | None, image: Path | None) -> Path:
    """Where the drawings go. Raises ValueError for a folder of images."""
    wanted = out or Path("explained") / name
    place = wanted.resolve()
    beside = image is not None and place == image.parent.resolve()
    if beside or (data is not None and place.is_relative_to(data.resolve())):
        raise ValueError(f"{wanted}: lies in the folder of the images, which is only read; choose another with --out")
    return wanted


def _made(out: Path | None, wanted: Path) -> Path:
    from boxwright.writing import free_folder

    folder = out or free_folder(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _refuse_objects(name: str, given: Mapping[str, object]) -> None:
    """Raise ValueError for options about objects of a model that finds none."""
    from boxwright.models import require_objects

    if refused := [_flag(option) for option, value in given.items() if value is not None]:
        require_objects(name, f"leave out {', '.join(refused)}")


def _of_checkpoint(
    source: str, image: str, data: Path | None, out: Path | None, *, classes: str | None, split: str | None,
    box: int | None, detection: int | None, class_name: str | None, score: float | None, proposals: Path | None,
    device: str,
) -> tuple[list[str], Path, list[Path]]:  # fmt: skip
    """What a checkpoint predicts for an image, and who owns its ground truth."""
    from boxwright.cli.progress import log
    from boxwright.data.image_io.decode import image_size, read_image
    from boxwright.data.proposals import read_proposals
    from boxwright.inference.explain_anchors import network_proposals
    from boxwright.inference.explain_any import class_names, explain_any
    from boxwright.inference.labelled import labelled_image
    from boxwright.inference.predictor import Detector
    from boxwright.models import MODELS

    detector = Detector.load(source, device)
    detects = MODELS[detector.recipe.model.name].detects
    if not detects:
        _refuse_objects(detector.recipe.model.name, {"box": box, "detection": detection, "score": score})
    names = class_names(detector)
    if class_name is not None and class_name not in names:
        raise ValueError(f"--class {class_name}: the model's classes are {', '.join(names)}")
    label = None if class_name is None else names.index(class_name)
    stored = None if proposals is None else read_proposals(proposals)
    detector.check_proposals(stored)
    path, ground_truth = Path(image), None
    if data is not None:
        path, ground_truth = labelled_image(
            image,
            data,
            detector.classes,
            split=split,
            classes=classes,
            masks=detector.recipe.needs_masks,
            num_keypoints=detector.recipe.num_keypoints,
            semantic=detector.recipe.needs_semantic,
            rotated=detector.recipe.needs_rotated,
        )
    wanted = _free_place(out, path.stem, data, path)
    if detector.tiling is not None:
        log(
            f"{source} detects in tiles of {detector.tiling.size} pixels, and this shows the whole image as one; cut a "
            "part of that size out of it to see what the detector sees"
        )
    pixels = read_image(path, value_range=detector.value_range)
    regions = None if stored is None else network_proposals(stored, detector, path, image_size(path))
    made = explain_any(detector, pixels, ground_truth, score=score, proposals=regions)
    if box is None and detects and ground_truth is not None and len(ground_truth):
        box = 0
    if detection is None and len(made.found):
        detection = 0
    lines = [f"{path}", *made.lines(box, detection)]
    folder = _made(out, wanted)
    return lines, folder, made.write(folder, box=box, detection=detection, label=label)


def _of_recipe(
    source: str, settings: list[str], image: str | None, data: Path | None, out: Path | None, *, classes: str | None,
    split: str | None, box: int | None, images: int, seed: int, proposals: Path | None,
) -> tuple[list[str], Path, list[Path]]:  # fmt: skip
    """Who would own what with a recipe: in the first batch of a run, or in one image as it is."""
    from boxwright.recipes import load_recipe
    from boxwright.training.explain_recipe import describe_seen, see_image, write_seen
    from boxwright.training.first_batch import first_batch

    assert data is not None
    recipe = load_recipe(source, settings)
    _refuse_objects(recipe.model.name, {"box": box})
    found: list[str] = []
    if image is None:
        wanted = _free_place(out, recipe.name, data, None)
        seen = first_batch(
            recipe, data, found.append, classes=classes, split=split or "train", seed=seed, proposals=proposals
        )
    else:
        seen = see_image(recipe, image, data, classes=classes, split=split, proposals=proposals)
        wanted = _free_place(out, seen.images[0].path.stem, data, seen.images[0].path)
    lines = [*found, *describe_seen(recipe, seen, box)]
    folder = _made(out, wanted)
    return lines, folder, write_seen(recipe, seen, folder, most=images, box=box)
