"""`results.txt` and the charts of the course's tool: its own sample, and small sets that are counted by hand."""

import re

import numpy as np
import pytest
import torch

from boxwright.evaluation.joining import join_results, read_text_ground_truth
from boxwright.evaluation.result_files import read_results
from boxwright.evaluation.voc_ap import VocClass, voc_ap
from boxwright.evaluation.voc_report import REFERENCES, log_average_miss_rate, results_text, write_voc_report
from boxwright.structures import Classes, Detections, GroundTruth

CLASSES = Classes.named(["cat", "a/b $x$", "unused"])


@pytest.fixture
def small():
    """Two images: one cat is found and one is not, one false cat, one right and one false second class."""
    ground_truths = [
        GroundTruth.of([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1]),
        GroundTruth.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [False, True]),
    ]
    boxes = [[0, 0, 10, 10], [70, 70, 80, 80], [20, 20, 30, 30], [50, 50, 60, 60]]
    first = Detections(torch.tensor(boxes[:3]).float(), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]),
                       (100, 100), CLASSES)  # fmt: skip
    second = Detections(torch.tensor(boxes[1:]).float()[[0, 2]], torch.tensor([0.6, 0.5]), torch.tensor([1, 0]),
                        (100, 100), CLASSES)  # fmt: skip
    return [first, second], ground_truths


def test_results_text_counted_by_hand(small):
    detections, ground_truths = small
    text = results_text(voc_ap(detections, ground_truths, CLASSES), detections)
    assert text == (
        "# AP and precision/recall per class\n"
        "100.00% = a/b $x$ AP \n"
        " Precision: ['1.00', '0.50']\n"
        " Recall :['1.00', '1.00']\n"
        "\n"
        "50.00% = cat AP \n"
        " Precision: ['1.00', '0.50']\n"  # the difficult cat is in no list
        " Recall :['0.50', '0.50']\n"
        "\n"
        "\n"
        "# mAP of all classes\n"
        "mAP = 75.00%\n"
        "\n"
        "# Number of ground-truth objects per class\n"
        "a/b $x$: 1\n"
        "cat: 2\n"
        "\n"
        "# Number of detected objects per class\n"
        "a/b $x$: 2 (tp:1, fp:1)\n"
        "cat: 3 (tp:1, fp:2)\n"
    )


def test_every_chart_is_written_whatever_a_class_is_called(small, tmp_path):
    detections, ground_truths = small
    paths = write_voc_report(tmp_path, voc_ap(detections, ground_truths, CLASSES), detections)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        path.relative_to(tmp_path).as_posix() for path in paths
    )
    assert {"results.txt", "mAP.png", "lamr.png", "ground-truth-info.png", "detection-results-info.png"} <= {
        path.name for path in paths
    }
    assert len(list((tmp_path / "classes").iterdir())) == 2
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:])


def test_no_detections_and_no_ground_truth(tmp_path):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), (100, 100), CLASSES)
    for ground_truth in (GroundTruth.of([[0, 0, 10, 10]], [0]), GroundTruth.of(torch.zeros(0, 4).tolist(), [])):
        result = voc_ap([nothing], [ground_truth], CLASSES)
        text = write_voc_report(tmp_path, result, [nothing])[0].read_text()
        assert ("mAP = 0.00%" if len(ground_truth) else "mAP = undefined") in text


def of_hits(hits: list[bool], objects: int) -> VocClass:
    right = np.cumsum(hits)
    ranks = np.arange(1, len(hits) + 1)
    return VocClass(0.5, objects, right / ranks, right / objects, 1 - ranks / 1000)


@pytest.mark.parametrize("seed", range(5))
def test_miss_rate_is_that_of_the_definition(seed):
    generator = np.random.default_rng(seed)
    hits = (generator.random(60) < 0.5).tolist()
    objects, images = sum(hits) + 3, 20
    one = of_hits(hits, objects)
    misses = []
    for reference in REFERENCES:
        kept = [n for n in range(len(hits) + 1) if (n - sum(hits[:n])) / images <= reference]
        misses.append(1 - sum(hits[: max(kept)]) / objects)
    assert log_average_miss_rate(one, images) == pytest.approx(float(np.exp(np.mean(np.log(misses)))), rel=1e-12)


def test_miss_rate_at_its_ends():
    assert log_average_miss_rate(of_hits([], 3), 10) == pytest.approx(1)
    assert log_average_miss_rate(of_hits([True, True], 2), 10) == pytest.approx(1e-10)
    assert log_average_miss_rate(VocClass(None, 0, np.ones(0), np.ones(0), np.ones(0)), 10) is None
    # 0.01 false positives an image are reached after the first detection of a single image's set: a miss rate of 1
    assert log_average_miss_rate(of_hits([False, True], 1), 1) == pytest.approx(1e-10 ** (1 / 9))


def test_the_sample_of_the_tool(shared):
    import json

    folder = shared / "fixtures/cartucho_map"
    text = read_text_ground_truth(folder / "ground-truth")
    joined = join_results(read_results(folder / "detection-results"), text.images, text.classes)
    result = voc_ap(joined.detections, text.ground_truths, text.classes, plus_one=True)
    printed = results_text(result, joined.detections)
    expected = json.loads((folder / "expected.json").read_text())
    assert {name: float(ap) for ap, name in re.findall(r"^(.+)% = (.+) AP $", printed, re.M)} == expected["ap"]
    assert f"mAP = {expected['mAP']:.2f}%" in printed
    objects = dict(re.findall(r"^(\w+): (\d+)$", printed, re.M))
    words = [
        line.split()[0] for file in (folder / "ground-truth").glob("*.txt") for line in file.open() if line.strip()
    ]
    assert objects == {name: str(words.count(name)) for name in set(words)}
    found = dict(re.findall(r"^(\w+): (\d+) \(tp", printed, re.M))
    words = [line.split()[0] for file in (folder / "detection-results").glob("*.txt") for line in file.open()]
    assert found == {name: str(words.count(name)) for name in set(words) & set(expected["ap"])}
