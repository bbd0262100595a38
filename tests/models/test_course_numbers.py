"""The numbers that the course's notebooks print: grids, deltas, centerness, shapes and modules.

The course is the university assignment of docs/conventions.md, of which there are two versions.
"""

import pytest
import torch
from configs import COURSE, built, config_of
from torch import nn

from boxwright.models.fcos import FCOSHead
from boxwright.nn.backbones import FeaturePyramid
from boxwright.ops.points import centerness, decode_ltrb, encode_ltrb, grid_locations
from boxwright.structures import ImageBatch

CONTAINERS = (nn.Sequential, nn.ModuleList, FeaturePyramid, FCOSHead)
SIZES = ((28, 28), (14, 14), (7, 7))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return built("fcos", 20, COURSE).eval()


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [
        (28, 8, [[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [28.0, 4.0], [36.0, 4.0]]),
        (14, 16, [[8.0, 8.0], [24.0, 8.0], [40.0, 8.0], [56.0, 8.0], [72.0, 8.0]]),
        (7, 32, [[16.0, 16.0], [48.0, 16.0], [80.0, 16.0], [112.0, 16.0], [144.0, 16.0]]),
    ],
)
def test_first_five_locations_of_each_level(size, stride, expected):
    """One version prints them with x and y swapped."""
    assert grid_locations((size, size), stride)[:5].tolist() == expected


class TestDeltas:
    boxes = torch.tensor([[10.0, 15.0, 100.0, 115.0], [30.0, 20.0, 40.0, 30.0], [120.0, 100.0, 200.0, 200.0]])
    locations = torch.tensor([[30.0, 40.0], [32.0, 29.0], [125.0, 150.0]])

    def test_there_and_back(self):
        """Printed as a relative error of 0.0."""
        deltas = encode_ltrb(self.locations, self.boxes, 8)
        assert torch.equal(decode_ltrb(self.locations, deltas, 8), self.boxes)

    def test_background_deltas_decode_to_the_location_itself(self):
        """Deltas of -1 give the box [100, 200, 100, 200]."""
        background = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
        assert decode_ltrb(torch.tensor([[100.0, 200.0]]), background, 8).tolist() == [[100.0, 200.0, 100.0, 200.0]]

    def test_centerness(self):
        """Printed: 0.30880671401, 0.1666666716, and -1 for background.

        The first is a misprint of 0.30860671401, which is what the course's own formula gives for its own boxes.
        """
        deltas = encode_ltrb(self.locations[:2], self.boxes[:2], 8)
        rows = torch.cat([deltas, torch.full((1, 4), -1.0)])
        assert centerness(rows).tolist() == pytest.approx([0.30880671401, 0.1666666716, -1.0], abs=2.1e-4)
        assert centerness(rows).tolist() == pytest.approx([0.30860671401, 0.1666666716, -1.0], abs=3e-8)
        assert pytest.approx(0.30860671401, abs=3e-8) == (20 / 70 * 25 / 75) ** 0.5

    def test_centerness_of_a_location_outside_of_its_box_is_that_of_background(self):
        """The box [10, 15, 100, 115] and the location [100, 200]."""
        outside = encode_ltrb(torch.tensor([[100.0, 200.0]]), self.boxes[:1], 8)
        assert centerness(outside).tolist() == [-1.0]


class TestShapes:
    def test_backbone_maps_are_64x28x28_160x14x14_and_400x7x7(self, model):
        with torch.no_grad():
            maps = model.backbone(torch.randn(2, 3, 224, 224))
        assert [tuple(map_.shape) for map_ in maps] == [(2, 64, 28, 28), (2, 160, 14, 14), (2, 400, 7, 7)]

    def test_pyramid_levels_are_64_wide(self, model):
        with torch.no_grad():
            levels = model.fpn([torch.zeros(2, c, s, s) for c, s in ((64, 28), (160, 14), (400, 7))])
        assert [tuple(level.shape) for level in levels] == [(2, 64, *size) for size in SIZES]

    def test_predictions_are_784_196_and_49_rows_of_20_4_and_1(self, model):
        with torch.no_grad():
            outputs = model(ImageBatch.of([torch.rand(3, 224, 224)] * 2))
        assert outputs.level_sizes == SIZES
        assert [height * width for height, width in outputs.level_sizes] == [784, 196, 49]
        assert outputs.class_logits.shape == (2, 784 + 196 + 49, 20)
        assert outputs.distances.shape == (2, 784 + 196 + 49, 4)
        assert outputs.centerness_logits.shape == (2, 784 + 196 + 49)


def printed(module):
    shown = {name: str(part) for name, part in module.named_modules() if not isinstance(part, CONTAINERS)}
    return {name: text for name, text in shown.items() if text != "Identity()"}


def convolution(in_channels, out_channels, side=3):
    padding = ", padding=(1, 1)" if side == 3 else ""
    return f"Conv2d({in_channels}, {out_channels}, kernel_size=({side}, {side}), stride=(1, 1){padding})"


class TestModules:
    def test_pyramid(self, model):
        assert printed(model.fpn) == {
            "laterals.0": convolution(64, 64, 1),
            "laterals.1": convolution(160, 64, 1),
            "laterals.2": convolution(400, 64, 1),
            **{f"outputs.{level}": convolution(64, 64) for level in range(3)},
        }

    @pytest.mark.parametrize("stem", [(128, 64), (64, 64)])
    def test_head(self, stem):
        """One version has stems of 128 and 64 channels, the other of 64 and 64."""
        config = config_of("fcos", {**COURSE, "head.stem_channels": stem})
        head = FCOSHead(config.head, 64, 20, num_levels=3)
        tower = {
            "0": convolution(64, stem[0]),
            "1": "ReLU(inplace=True)",
            "2": convolution(stem[0], 64),
            "3": "ReLU(inplace=True)",
        }
        assert printed(head) == {
            **{f"class_tower.{place}": text for place, text in tower.items()},
            **{f"box_tower.{place}": text for place, text in tower.items()},
            "class_logits": convolution(64, 20),
            "box_distances": convolution(64, 4),
            "centerness": convolution(64, 1),
        }

    def test_backbone_has_426_tensors(self, model):
        """RegNetX-400MF without its classifier, as the course saves it."""
        assert len(model.backbone.state_dict()) == 426
