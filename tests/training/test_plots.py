import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.training import plots

CLASSES = Classes.named(["cell", "dust"])


def rows(count=50):
    made = []
    for place in range(count):
        row = {"step": 10 * (place + 1), "train/loss": 3.0 / (place + 1), "train/classification": 1.0,
               "train/centerness": 0.65, "train/centerness_floor": 0.57, "lr": 0.01}  # fmt: skip
        if place % 10 == 9:
            row |= {"val/loss": 2.0, "val/centerness": 0.66, "val/AP": place / 100, "val/AP50": place / 60}
        made.append(row)
    return made


@pytest.fixture
def figures(monkeypatch):
    """The figures that are made, so that a test can read what stands in them."""
    made, original = [], plots.plain_figure

    def figure(width, height):
        made.append(original(width, height))
        return made[-1]

    monkeypatch.setattr(plots, "plain_figure", figure)
    return made


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title() == title)


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


class TestSeries:
    def test_missing_and_non_finite_values_are_skipped(self):
        logged = [{"step": 1, "a": 5.0}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": float("nan")},
                  {"step": 5, "a": 7}]  # fmt: skip
        steps, values = plots._series(logged, "a")
        assert steps.tolist() == [1, 5]
        assert values.tolist() == [5, 7]

    def test_row_without_a_step_counts_by_its_place(self):
        assert plots._series([{"a": 1.0}, {"a": 2.0}], "a")[0].tolist() == [0, 1]

    def test_smoothing_keeps_constants_short_curves_and_straight_lines(self):
        assert plots._smooth(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))
        assert plots._smooth(np.array([1.0, 9.0, 2.0])).tolist() == [1, 9, 2]
        assert plots._smooth(np.arange(200.0))[5:195] == pytest.approx(np.arange(5.0, 195))


class TestResults:
    def test_one_panel_for_each_loss_and_for_scores_and_learning_rate(self, tmp_path, figures):
        plots.plot_results(rows(), tmp_path / "results.png")
        titles = [axes.get_title() for axes in figures[0].axes]
        assert titles == ["total loss", "classification loss", "centerness loss",
                          "val: best AP 0.490 at step 500", "learning rate"]  # fmt: skip
        assert Image.open(tmp_path / "results.png").format == "PNG"

    def test_train_and_val_share_a_panel(self, tmp_path, figures):
        plots.plot_results(rows(), tmp_path / "results.png")
        shown = lines(panel(figures[0], "total loss"))
        assert set(shown) == {"train", "val"}
        assert shown["val"].get_xdata().tolist() == [100, 200, 300, 400, 500]

    def test_centerness_stands_above_its_entropy_floor(self, tmp_path, figures):
        plots.plot_results(rows(), tmp_path / "results.png")
        axes = panel(figures[0], "centerness loss")
        assert lines(axes)["entropy floor (train)"].get_ydata() == pytest.approx(0.57)
        low, high = axes.get_ylim()
        assert low > 0.3  # not squeezed against the top by an axis from 0
        assert low < 0.57
        assert high > 0.66
        assert "entropy floor (train)" not in lines(panel(figures[0], "total loss"))

    def test_floor_of_another_loss_may_be_named(self, tmp_path, figures):
        logged = [{"step": s, "train/quality": 0.7, "train/quality_floor": 0.5} for s in range(5)]
        plots.plot_results(logged, tmp_path / "results.png")
        assert "entropy floor (train)" in lines(panel(figures[0], "quality loss"))

    @pytest.mark.parametrize("logged", [[], [{"step": 0}], [{"step": 0, "train/loss": float("nan")}]])
    def test_nothing_logged_yet_says_so(self, tmp_path, figures, logged):
        plots.plot_results(logged, tmp_path / "results.png")
        assert [text.get_text() for text in figures[0].texts] == ["nothing logged yet"]

    def test_single_row_and_zero_losses_are_drawn(self, tmp_path, figures):
        plots.plot_results([{"step": 10, "train/loss": 0.0, "val/loss": 0.0, "val/AP": 0.0}], tmp_path / "results.png")
        assert lines(panel(figures[0], "total loss"))["train"].get_marker() == "o"
        assert (tmp_path / "results.png").stat().st_size > 1000

    def test_losses_over_many_magnitudes_take_a_logarithmic_axis(self, tmp_path, figures):
        plots.plot_results(rows(), tmp_path / "results.png")
        assert panel(figures[0], "total loss").get_yscale() == "log"
        assert panel(figures[0], "classification loss").get_yscale() == "linear"


class TestLabels:
    boxes = torch.tensor([[0.0, 0, 40, 20], [10, 10, 210, 110], [50, 50, 150, 250]])
    labels = torch.tensor([0, 0, 1])
    sizes = torch.tensor([[300, 400]] * 3)

    def test_counts_stand_beside_the_bars(self, tmp_path, figures):
        plots.plot_labels(self.boxes, self.labels, self.sizes, CLASSES, tmp_path / "labels.jpg")
        axes = panel(figures[0], "3 boxes of 2 classes")
        assert [bar.get_width() for bar in axes.patches] == [2, 1]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["cell", "dust"]
        assert Image.open(tmp_path / "labels.jpg").format == "JPEG"

    def test_levels_are_marked_with_their_share_of_the_boxes(self, tmp_path, figures):
        ranges = {"P3": (0.0, 64.0), "P4": (64.0, 128.0), "P5": (128.0, float("inf"))}
        plots.plot_labels(self.boxes, self.labels, self.sizes, CLASSES, tmp_path / "labels.png", level_ranges=ranges)
        axes = panel(figures[0], "half of the longer side of a box")
        assert [text.get_text() for text in axes.texts] == ["P3\n33 %", "P4\n67 %", "P5\n0 %"]
        assert [line.get_xdata()[0] for line in axes.get_lines()] == [64, 128]

    def test_histograms_hold_every_box(self, tmp_path, figures):
        plots.plot_labels(self.boxes, self.labels, self.sizes, CLASSES, tmp_path / "labels.png")
        for title in ("box size, as a share of the image", "box centres in the image"):
            assert panel(figures[0], title).images[0].get_array().sum() == 3
        bars = panel(figures[0], "half of the longer side of a box").patches
        assert sum(bar.get_height() for bar in bars) == 3

    @pytest.mark.parametrize("ranges", [None, {"P3": (0.0, 64.0), "P4": (64.0, float("inf"))}])
    def test_data_set_without_boxes_is_drawn(self, tmp_path, figures, ranges):
        empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)
        plots.plot_labels(*empty, CLASSES, tmp_path / "labels.png", level_ranges=ranges)
        assert panel(figures[0], "0 boxes of 2 classes")

    def test_of_many_classes_the_most_frequent_are_shown(self, tmp_path, figures):
        many = Classes.named([f"class number {index} of a great many" for index in range(100)])
        labels = torch.tensor([7, 7, 99])
        plots.plot_labels(self.boxes, labels, self.sizes, many, tmp_path / "labels.png")
        axes = panel(figures[0], "3 boxes of 100 classes (the 40 most frequent)")
        assert [bar.get_width() for bar in axes.patches if bar.get_width()] == [2, 1]

    def test_unequal_lengths_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="3 boxes, 2 labels"):
            plots.plot_labels(self.boxes, self.labels[:2], self.sizes, CLASSES, tmp_path / "labels.png")


class TestBatch:
    ground_truth = GroundTruth.of([[10, 20, 40, 50]], [1])

    def test_sheet_holds_at_most_the_asked_number(self, tmp_path):
        images = torch.zeros(5, 3, 60, 80, dtype=torch.uint8)
        plots.save_batch(images, [self.ground_truth] * 5, CLASSES, tmp_path / "few.png", max_images=4)
        plots.save_batch(images, [self.ground_truth] * 5, CLASSES, tmp_path / "all.png")
        few, everything = Image.open(tmp_path / "few.png"), Image.open(tmp_path / "all.png")
        assert few.size == (2 * 480 + 3 * 5, 2 * 360 + 3 * 5)
        assert everything.size == (3 * 480 + 4 * 5, 2 * 360 + 3 * 5)

    def test_images_of_several_sizes_with_detections(self, tmp_path):
        sizes = [(60, 80), (200, 100)]
        images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
        found = [Detections(torch.tensor([[5.0, 5, 50, 50]]), torch.tensor([0.3]), torch.tensor([0]), size)
                 for size in sizes]  # fmt: skip
        plots.save_batch(images, found, CLASSES, tmp_path / "all.png")
        plots.save_batch(images, found, CLASSES, tmp_path / "good.png", min_score=0.5)
        assert len(Image.open(tmp_path / "all.png").getcolors(1 << 20)) > 2
        assert len(Image.open(tmp_path / "good.png").getcolors(1 << 20)) == 2  # black images on white paper

    def test_as_many_objects_as_images(self, tmp_path):
        with pytest.raises(ValueError, match="2 images but objects of 1"):
            plots.save_batch(
                torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [self.ground_truth], CLASSES, tmp_path / "a.png"
            )


def test_nothing_is_left_in_the_home_folder(tmp_path):
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    hidden = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"HOME": str(home), "TMPDIR": str(scratch)}
    code = f"from boxwright.training.plots import plot_results; plot_results([], {str(tmp_path / 'results.png')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    assert (tmp_path / "results.png").exists()
    assert list(home.rglob("*")) == []
    assert all(path.name.startswith("boxwright-matplotlib-") for path in scratch.iterdir())  # kept for the next run


class TestOneKindOfAverage:
    def test_a_loss_is_drawn_from_single_steps_where_measured_rows_hold_the_mean_since_the_last(
        self, tmp_path, figures
    ):
        logged = []
        for step in range(10, 410, 10):
            logged.append({"step": step, "train/loss": 400.0 - step})
            if step % 100 == 0:
                logged.append({"step": step, "train/loss": 450.0 - step, "val/loss": 7.0, "val/AP": 0.5})
        plots.plot_results(logged, tmp_path / "r.png")
        raw = panel(figures[0], "total loss").get_lines()[0]
        assert np.all(np.diff(raw.get_xdata()) == 10)
        assert np.all(np.diff(raw.get_ydata()) == -10)  # falls evenly, without a tooth

    def test_the_means_are_drawn_where_nothing_else_is_logged(self, tmp_path, figures):
        logged = [{"step": step, "train/loss": 9.0 - step, "val/loss": 7.0} for step in range(1, 5)]
        plots.plot_results(logged, tmp_path / "r.png")
        assert lines(panel(figures[0], "total loss"))["train"].get_xdata().tolist() == [1, 2, 3, 4]
