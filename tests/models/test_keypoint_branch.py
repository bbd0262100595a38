"""The keypoint branch by itself: what its settings do to the loss."""

import pytest
import torch

from boxwright.models.keypoint_branch import KeypointBranch, KeypointRegions, KeypointSettings


def loss_at(weight):
    branch = KeypointBranch(KeypointSettings(num_keypoints=2, conv_channels=(4,), loss_weight=weight), 4, [4])
    heatmaps = torch.randn(3, 2, 56, 56, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[0, 5], [9, 3135], [1, 2]])
    return float(branch.loss(KeypointRegions(heatmaps, cells, cells != 5))["keypoint"])


def test_the_loss_counts_as_much_as_its_weight():
    assert loss_at(0.1) == pytest.approx(0.1 * loss_at(1.0))
    assert loss_at(1.0) > 5  # of 3136 cells


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match="loss_weight: expected a number above 0"):
        KeypointSettings(loss_weight=weight)
