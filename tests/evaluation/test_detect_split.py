"""Detections beside the ground truth of their images: what a checkpoint's figures are computed from."""

import contextlib
import io
import json

import pytest
from PIL import Image

from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.detect_split import SplitDetections, with_ground_truth
from boxwright.evaluation.result_files import write_coco_results
from boxwright.ops.image import ResizeRule


def write_coco(folder, ground_truths, ids, size_hw):
    """A COCO folder whose images stand in the order of these ids."""
    (folder / "images").mkdir(parents=True)
    images, rows = [], []
    for key, ground_truth in zip(ids, ground_truths, strict=True):
        Image.new("L", size_hw[::-1]).save(folder / "images" / f"{key}.png")
        images.append({"id": key, "file_name": f"{key}.png", "height": size_hw[0], "width": size_hw[1]})
        things = zip(
            ground_truth.boxes.tolist(), ground_truth.labels.tolist(), ground_truth.ignore.tolist(), strict=True
        )
        for (x1, y1, x2, y2), label, ignore in things:
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"id": len(rows) + 1, "image_id": key, "category_id": label + 1, "bbox": box,
                         "area": box[2] * box[3], "iscrowd": int(ignore)})  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(("cat", "dog", "cow"))]
    (folder / "annotations").mkdir()
    table = folder / "annotations" / "instances_val.json"
    table.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return table


@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_are_ranked_by_image_id_so_that_pycocotools_finds_the_same_in_the_written_file(
    random_set, tmp_path, seed
):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections, ground_truths = random_set(seed, ties=True)
    ids = [10 * (7 * index % 12) + 5 for index in range(12)]
    table = write_coco(tmp_path / "data", ground_truths, ids, (240, 320))
    data = open_folder(tmp_path / "data")
    split = DetectionDataset(data.splits["val"], ResizeRule("none"))
    at = [ids.index(record.image_id) for record in data.splits["val"].records]
    found = SplitDetections({index: detections[place] for index, place in enumerate(at)})
    inputs = with_ground_truth(found, split, data.classes)
    assert inputs.image_ids == sorted(ids)

    results = tmp_path / "predictions.json"
    write_coco_results(results, inputs.detections, inputs.image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(table))
        theirs = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = coco_ap(inputs.detections, inputs.ground_truths, data.classes).figures()
    assert [ours[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(list(theirs.stats[:3]), abs=1e-9)
    assert 0.1 < ours["AP"] < 0.9
    in_file_order = coco_ap(
        [detections[place] for place in at], [ground_truths[place] for place in at], data.classes
    ).figures()  # fmt: skip
    assert in_file_order["AP"] != pytest.approx(ours["AP"], abs=1e-6)  # so the order matters here
