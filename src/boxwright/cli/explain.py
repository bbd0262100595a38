"""The verb `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    checkpoint: Annotated[Path, typer.Argument(help="A boxwright checkpoint, such as runs/NAME/weights/best.pt.")],
    image: Annotated[str, typer.Argument(help="An image; with --data its file name is enough.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of labelled images (VOC, COCO, CVAT or YOLO layout) with its ground truth."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Search this split only: train, val, test, ...")] = None,
    classes: Annotated[
        str | None, typer.Option(help="The selection or merge of classes that the model was trained with.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; a new explained/NAME, NAME-2, ... if not given.")
    ] = None,
    box: Annotated[int | None, typer.Option(help="Index of the ground-truth box to explain; 0 if not given.")] = None,
    detection: Annotated[
        int | None, typer.Option(help="Index of the detection to explain; 0, the best, if not given.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Draw the class maps of this class; the best class if not given.")
    ] = None,
    score: Annotated[
        float | None, typer.Option(help="Score threshold of detections; the checkpoint's own if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Draw what the detector sees in one image: locations, owners, centerness, classes, a box and a detection.

    Without --data there is no ground truth, and only predictions are drawn. The explanation in words is printed.
    """
    from boxwright.data.image_io.decode import read_image
    from boxwright.inference.explain import describe, describe_box, describe_detection
    from boxwright.inference.explain import explain as explained
    from boxwright.inference.explain_drawing import write_explanation
    from boxwright.inference.labelled import labelled_image
    from boxwright.inference.predictor import Detector
    from boxwright.writing import free_folder, printable

    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"--score: expected 0 to 1, got {score}")
    if data is None and (split is not None or classes is not None or box is not None):
        raise ValueError("--split, --classes and --box are about the ground truth: give --data FOLDER too")
    detector = Detector.load(checkpoint, device)
    if class_name is not None and class_name not in detector.classes.names:
        raise ValueError(f"--class {class_name}: the model's classes are {', '.join(detector.classes.names)}")
    label = None if class_name is None else detector.classes.names.index(class_name)
    path, ground_truth = Path(image), None
    if data is not None:
        path, ground_truth = labelled_image(image, data, detector.classes, split=split, classes=classes)
    wanted = out or Path("explained") / path.stem
    place = wanted.resolve()
    if place == path.parent.resolve() or (data is not None and place.is_relative_to(data.resolve())):
        raise ValueError(f"{wanted}: lies in the folder of the images, which is only read; choose another with --out")
    explanation = explained(detector, read_image(path, value_range=detector.value_range), ground_truth, score=score)
    if box is None and ground_truth is not None and len(ground_truth):
        box = 0
    if detection is None and len(explanation.found):
        detection = 0
    lines = [f"{path}", *describe(explanation)]
    lines += describe_box(explanation, box) if box is not None else []
    lines += describe_detection(explanation, detection) if detection is not None else []
    folder = out or free_folder(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    written = write_explanation(explanation, folder, box=box, detection=detection, label=label)
    typer.echo("\n".join(map(printable, lines)))
    names = ", ".join(file.name for file in written)
    typer.echo("\n" + printable(f"Images in {folder}: {names}"))
