import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from boxwright.ops.losses import box_loss, centerness_loss, entropy_floor, focal_loss, giou_loss, smooth_l1

KINDS = ("iou", "giou", "l1")
EXTREMES = (0.0, 1e-30, -1e-30, 1e4, -1e4, 1e30, -1e30)


def logits_and_labels(seed=0, batch=2, count=40, classes=5, spread=4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, count, classes, generator=generator) * spread
    labels = torch.randint(-1, classes, (batch, count), generator=generator)
    keep = torch.rand(batch, count, generator=generator) < 0.8
    return logits, labels, keep


def one_hot(labels, classes):
    return F.one_hot(labels.clamp(min=0), classes).float() * (labels >= 0)[..., None]


def gradient(function, value):
    value = value.clone().requires_grad_(True)
    function(value).backward()
    return value.grad


class TestFocalLoss:
    @pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.0), (0.9, 3.0)])
    def test_value_and_gradient_equal_torchvision(self, alpha, gamma):
        logits, labels, keep = logits_and_labels()

        def reference(values):
            each = sigmoid_focal_loss(values, one_hot(labels, 5), alpha=alpha, gamma=gamma)
            return (each * keep[..., None]).sum()

        def ours(values):
            return focal_loss(values, labels, keep, alpha=alpha, gamma=gamma)

        torch.testing.assert_close(ours(logits), reference(logits), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient(ours, logits), gradient(reference, logits), rtol=1e-4, atol=1e-5)

    def test_without_focus_it_is_half_the_cross_entropy(self):
        logits, labels, keep = logits_and_labels()
        plain = F.binary_cross_entropy_with_logits(logits[keep], one_hot(labels, 5)[keep], reduction="sum")
        torch.testing.assert_close(focal_loss(logits, labels, keep, alpha=0.5, gamma=0.0), plain / 2)

    def test_an_easy_example_counts_by_the_square_of_its_error(self):
        sure = torch.tensor([[[4.0]]])
        everything = torch.tensor([[True]])
        error = torch.sigmoid(torch.tensor(-4.0))
        expected = 0.25 * error**2 * -torch.log1p(-error)
        torch.testing.assert_close(focal_loss(sure, torch.tensor([[0]]), everything), expected)

    def test_what_is_left_out_has_no_gradient(self):
        logits, labels, keep = logits_and_labels()
        slope = gradient(lambda v: focal_loss(v, labels, keep), logits)
        assert not slope[~keep].any()
        assert slope[keep].any(-1).all()

    @pytest.mark.parametrize("extreme", EXTREMES)
    @pytest.mark.parametrize("label", [-1, 0])
    def test_extreme_logits_give_numbers_and_number_gradients(self, extreme, label):
        logits = torch.full((1, 1, 2), extreme)
        labels, keep = torch.tensor([[label]]), torch.tensor([[True]])
        assert torch.isfinite(focal_loss(logits, labels, keep))
        assert torch.isfinite(gradient(lambda v: focal_loss(v, labels, keep), logits)).all()

    def test_a_wrong_location_that_is_left_out_cannot_poison_the_sum(self):
        logits = torch.tensor([[[float("nan")], [0.0]]])
        labels, keep = torch.tensor([[0, -1]]), torch.tensor([[False, True]])
        alone = focal_loss(logits[:, 1:], labels[:, 1:], keep[:, 1:])
        assert torch.equal(focal_loss(logits, labels, keep), alone)

    def test_no_locations_give_zero_with_a_graph(self):
        logits = torch.zeros(2, 0, 5, requires_grad=True)
        loss = focal_loss(logits, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
        loss.backward()
        assert loss == 0


def distances(seed=0, count=50):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, count, 4, generator=generator) * 9 + 0.05


def as_boxes(ltrb):
    return torch.cat([-ltrb[..., :2], ltrb[..., 2:]], -1)


class TestBoxLoss:
    def test_giou_value_and_gradient_equal_torchvision(self):
        predicted, target = distances(1)[0], distances(2)[0]
        weights = torch.rand(50)

        def reference(values):
            return (generalized_box_iou_loss(as_boxes(values), as_boxes(target)) * weights).sum()

        def ours(values):
            return box_loss(values, target, weights, "giou")

        torch.testing.assert_close(ours(predicted), reference(predicted), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient(ours, predicted), gradient(reference, predicted), rtol=1e-4, atol=1e-5)

    def test_iou_is_the_negative_logarithm_of_the_overlap(self):
        predicted = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
        target = torch.tensor([[2.0, 1.0, 2.0, 1.0]])  # twice as wide: overlap 1/2
        smooth = box_loss(torch.ones(1, 4), torch.tensor([[1.0, 1.0, 3.0, 1.0]]), torch.ones(1), "iou", smoothing=1.0)
        torch.testing.assert_close(smooth, torch.tensor(5 / 9).log().neg(), rtol=1e-5, atol=0.0)  # 4 of 8, and 1 each
        loss = box_loss(predicted, target, torch.ones(1), "iou")
        torch.testing.assert_close(loss, torch.tensor(2.0).log())

    def test_l1_is_the_mean_error_of_the_four_sides(self):
        loss = box_loss(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[2.0, 2.0, 2.0, 2.0]]), torch.ones(1), "l1")
        assert loss == 1.0

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_zero_for_a_perfect_box(self, kind):
        target = distances(3)
        assert box_loss(target, target, torch.ones(2, 50), kind).abs() < 1e-3

    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_add_up(self, kind):
        predicted, target, weights = distances(4), distances(5), torch.rand(2, 50)
        total = sum(
            box_loss(predicted[b, [n]], target[b, [n]], weights[b, [n]], kind) for b in range(2) for n in range(50)
        )
        torch.testing.assert_close(box_loss(predicted, target, weights, kind), total, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_without_weight_have_no_gradient_whatever_they_hold(self, kind):
        predicted, target = distances(6), distances(7)
        predicted[0, :10], target[0, :10] = float("nan"), float("inf")
        predicted[0, 10:20] = 0.0
        weights = torch.ones(2, 50)
        weights[0, :20] = 0
        slope = gradient(lambda v: box_loss(v, target, weights, kind), predicted)
        assert torch.isfinite(slope).all()
        assert not slope[0, :20].any()
        assert slope[1].any(-1).all()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("extreme", [0.0, 1e-30, 1e-4, 1e6, 1e12])
    def test_extreme_boxes_give_numbers_and_number_gradients(self, kind, extreme):
        predicted = torch.full((1, 4), extreme)
        target = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        assert torch.isfinite(box_loss(predicted, target, torch.ones(1), kind))
        assert torch.isfinite(gradient(lambda v: box_loss(v, target, torch.ones(1), kind), predicted)).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_positive_gives_zero_with_a_graph(self, kind):
        predicted = distances(8).requires_grad_(True)
        loss = box_loss(predicted, torch.zeros(2, 50, 4), torch.zeros(2, 50), kind)
        loss.backward()
        assert loss == 0
        assert predicted.grad is not None
        assert not predicted.grad.any()


class TestSmoothL1:
    @pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
    def test_value_and_gradient_equal_torch(self, beta):
        predicted, target = torch.randn(30, 4), torch.randn(30, 4)
        weights = torch.rand(30)

        def reference(values):
            return (F.smooth_l1_loss(values, target, reduction="none", beta=beta).sum(1) * weights).sum()

        def ours(values):
            return smooth_l1(values, target, weights, beta)

        torch.testing.assert_close(ours(predicted), reference(predicted))
        torch.testing.assert_close(gradient(ours, predicted), gradient(reference, predicted))

    def test_meets_itself_at_beta_in_value_and_slope(self):
        errors = torch.tensor([[0.4999, 0.5001, 0, 0]])
        slope = gradient(lambda v: smooth_l1(v, torch.zeros(1, 4), torch.ones(1), 0.5), errors)
        torch.testing.assert_close(slope, torch.tensor([[1.0, 1, 0, 0]]), rtol=1e-3, atol=0)

    @pytest.mark.parametrize("beta", [0.0, 1.0])
    def test_rows_without_weight_have_no_gradient_whatever_they_hold(self, beta):
        predicted, target = torch.randn(4, 4), torch.randn(4, 4)
        predicted[0], target[1] = float("nan"), float("inf")
        weights = torch.tensor([0.0, 0.0, 1.0, 2.0])
        slope = gradient(lambda v: smooth_l1(v, target, weights, beta), predicted)
        assert torch.isfinite(slope).all()
        assert not slope[:2].any()
        assert slope[2:].all()


class TestGiouLoss:
    def test_value_and_gradient_equal_torchvision(self):
        predicted, target = as_boxes(distances(1)[0]), as_boxes(distances(2)[0])
        weights = torch.rand(50)

        def reference(values):
            return (generalized_box_iou_loss(values, target) * weights).sum()

        def ours(values):
            return giou_loss(values, target, weights)

        torch.testing.assert_close(ours(predicted), reference(predicted), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient(ours, predicted), gradient(reference, predicted), rtol=1e-4, atol=1e-5)

    def test_rows_without_weight_have_no_gradient_whatever_they_hold(self):
        predicted, target = as_boxes(distances(3)[0]), as_boxes(distances(4)[0])
        predicted[0], target[1], predicted[2] = float("nan"), float("inf"), 0.0
        weights = torch.tensor([0.0] * 3 + [1.0] * 47)
        slope = gradient(lambda v: giou_loss(v, target, weights), predicted)
        assert torch.isfinite(slope).all()
        assert not slope[:3].any()
        assert slope[3:].any(-1).all()


class TestCenternessLoss:
    def test_equals_the_cross_entropy_of_what_is_kept(self):
        logits, target = torch.randn(100), torch.rand(100)
        keep = torch.rand(100) < 0.5
        expected = F.binary_cross_entropy_with_logits(logits[keep], target[keep], reduction="sum")
        torch.testing.assert_close(centerness_loss(logits, target, keep), expected)

    def test_what_is_left_out_has_no_gradient_whatever_it_holds(self):
        logits, target = torch.randn(4), torch.tensor([0.5, -1.0, float("nan"), 1.0])
        keep = torch.tensor([True, False, False, True])
        slope = gradient(lambda v: centerness_loss(v, target, keep), logits)
        assert torch.equal(slope != 0, keep)
        assert torch.isfinite(slope).all()

    @pytest.mark.parametrize("extreme", EXTREMES)
    def test_extreme_logits_give_numbers_and_number_gradients(self, extreme):
        logits, target, keep = torch.tensor([extreme]), torch.tensor([0.3]), torch.tensor([True])
        assert torch.isfinite(centerness_loss(logits, target, keep))
        assert torch.isfinite(gradient(lambda v: centerness_loss(v, target, keep), logits)).all()

    def test_floor_is_what_a_perfect_prediction_costs(self):
        target = torch.rand(50) * 0.98 + 0.01
        keep = torch.rand(50) < 0.7
        torch.testing.assert_close(centerness_loss(target.logit(), target, keep), entropy_floor(target, keep))

    def test_loss_never_falls_below_its_floor(self):
        target, keep = torch.rand(200), torch.ones(200, dtype=torch.bool)
        for seed in range(5):
            logits = torch.randn(200, generator=torch.Generator().manual_seed(seed))
            assert centerness_loss(logits, target, keep) >= entropy_floor(target, keep)

    def test_floor_of_sure_targets_is_zero(self):
        assert entropy_floor(torch.tensor([0.0, 1.0]), torch.tensor([True, True])) == 0
