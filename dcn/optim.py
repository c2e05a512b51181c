"""Optimizer groups: the convolutions that predict offsets learn more slowly than the rest."""

from collections.abc import Sequence
from typing import Any

from torch import nn


def param_groups(
    model: nn.Module,
    lr: float,
    offset_lr_mult: float = 0.1,
    names: Sequence[str] = ("offset", "modulator"),
) -> list[dict[str, Any]]:
    """Splits a model's parameters for an optimizer: `torch.optim.AdamW(dcn.param_groups(...))`.

    A step of the offset convolutions moves samples, so they are commonly given a tenth of the
    learning rate (mmcv's `dcn_offset_lr_mult`). A parameter belongs to them if a module on the way
    to it has one of `names` in its name: `conv_offset` of the packs and of mmcv,
    `conv_offset_mask`, `conv2_offset` of detectron2, `offset_conv` and `modulator_conv`.

    Args:
        model: its parameters that require gradients are taken, each once; frozen ones are not.
        lr: the learning rate of all others.
        offset_lr_mult: the offset convolutions learn at `lr * offset_lr_mult`.
        names: parts of the names of modules that predict offsets or masks.

    Returns:
        `[{"params": [...], "lr": lr}, {"params": [...], "lr": lr * offset_lr_mult}]`, without a
        group that would be empty.
    """
    rest, offsets = [], []
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            modules = path.split(".")[:-1]
            predicts = any(name in module for module in modules for name in names)
            (offsets if predicts else rest).append(parameter)
    groups = [{"params": rest, "lr": lr}, {"params": offsets, "lr": lr * offset_lr_mult}]
    return [group for group in groups if group["params"]]
