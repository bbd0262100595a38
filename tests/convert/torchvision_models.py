"""Torchvision's detectors with random weights that find something: outputs of predictors are brought to one spread."""

import torch
import torchvision.models.detection as zoo
from torch import nn

SPREAD = {
    "cls_logits": 1.5, "cls_score": 1.0, "bbox_reg": 0.4, "bbox_pred": 0.1, "bbox_ctrness": 1.0, "mask_fcn_logits": 2.0,
    "kps_score_lowres": 2.0,
}  # fmt: skip


def random_model(name, num_classes, seed=0, min_size=96, max_size=160, **settings):
    """A torchvision detector in evaluation mode whose outputs spread as those of a trained one."""
    torch.manual_seed(seed)
    settings = {"min_size": min_size, "max_size": max_size, "num_classes": num_classes} | settings
    if "rcnn" in name:
        settings["box_detections_per_img"] = 20  # pasting a hundred masks takes seconds
    model = getattr(zoo, name)(weights=None, weights_backbone=None, **settings).eval()
    for full, part in model.named_modules():
        if isinstance(
            part, nn.BatchNorm2d
        ):  # residual branches of little weight: else rounding errors grow a thousandfold
            nn.init.uniform_(part.weight, 0.1, 0.2) if full.endswith("bn3") else nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.uniform_(part.bias, -0.2, 0.2)
    images = [torch.rand(3, 90, 120), torch.rand(3, 120, 100)]
    model.train()  # once, for statistics that fit the weights
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    targets = [{"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([1]),
                "masks": torch.ones(1, *p.shape[1:], dtype=torch.uint8),
                "keypoints": torch.full((1, 17, 3), 20.0)} for p in images]  # fmt: skip
    with torch.no_grad():
        model(images, targets)
        model.eval()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):  # a head that saw no region has no statistics
                part.running_mean.nan_to_num_(0.0)
                part.running_var.nan_to_num_(1.0)
        for full, part in model.named_modules():
            spread = SPREAD.get(full.rsplit(".", 1)[-1])
            if spread is not None:
                part.spread = spread
                part.register_forward_hook(_bring_to_spread)
        model(images)
        model(images)  # masks are predicted once there are detections
    for part in model.modules():
        part._forward_hooks.clear()
    return model


def _bring_to_spread(part, _inputs, output):
    """Scale a predictor so that its first output spreads as wanted, and give the outputs of the scaled one."""
    if hasattr(part, "spread") and output.numel() > 1:
        factor = part.spread / float(output.std().clamp(min=1e-6))
        part.weight.mul_(factor)
        part.bias.mul_(0).add_(torch.randn_like(part.bias) * 0.3 - (1.5 if part.spread == 1.5 else 0.0))
        del part.spread
