"""Optimizer groups: every parameter once, the convolutions that predict offsets apart."""

import pytest
import torch
from torch import nn

import dcn


class Model(nn.Module):
    """Packs and convolutions under the names that the families give them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.pack = dcn.ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        self.conv2 = dcn.DeformConv2d(4, 4, 3, padding=1)
        self.conv2_offset = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 18, 1))
        self.modulator_conv = nn.Conv2d(4, 9, 1)
        self.again = self.stem
        self.offset_of_nothing = nn.Parameter(torch.zeros(1))  # no module of that name


def named(model, group) -> set[str]:
    return {
        name for name, one in model.named_parameters() if any(one is p for p in group["params"])
    }


def test_every_parameter_is_in_one_group():
    model = Model()
    rest, offsets = dcn.param_groups(model, lr=0.5)
    assert (rest["lr"], offsets["lr"]) == (0.5, 0.05)
    assert named(model, offsets) == {
        *(f"pack.conv_offset.{kind}" for kind in ("weight", "bias")),
        *(f"conv2_offset.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")),
        *(f"modulator_conv.{kind}" for kind in ("weight", "bias")),
    }
    grouped = [id(parameter) for group in (rest, offsets) for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))


def test_what_is_frozen_is_left_out():
    model = Model()
    model.stem.requires_grad_(False)
    model.pack.conv_offset.bias.requires_grad_(False)
    rest, offsets = dcn.param_groups(model, lr=1.0, offset_lr_mult=0.3)
    assert offsets["lr"] == 0.3
    assert not named(model, rest) & {"stem.weight", "stem.bias"}
    assert "pack.conv_offset.bias" not in named(model, rest) | named(model, offsets)
    (only,) = dcn.param_groups(nn.Conv2d(1, 1, 1), lr=1.0)  # no empty group
    assert only["lr"] == 1.0 and len(only["params"]) == 2


def test_other_names_can_be_given():
    model = nn.ModuleDict({"shift": nn.Conv2d(1, 1, 1), "conv": nn.Conv2d(1, 1, 1)})
    rest, offsets = dcn.param_groups(model, lr=1.0, names=["shift"])
    assert named(model, offsets) == {"shift.weight", "shift.bias"}
    assert named(model, rest) == {"conv.weight", "conv.bias"}


def test_an_optimizer_takes_them():
    model = dcn.ModulatedDeformConv2dPack(4, 4, 3, padding=1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(dcn.param_groups(model, lr=1.0))
    model(torch.rand(1, 4, 8, 8)).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = 0.1 if "conv_offset" in name else 1.0
        torch.testing.assert_close(parameter, before[name] - rate * parameter.grad)
        assert parameter.grad.any(), name


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "parallel"])
def test_a_wrapped_model_has_the_same_groups(wrap):
    model = Model()
    plain, wrapped = dcn.param_groups(model, 1.0), dcn.param_groups(wrap(model), 1.0)
    for one, other in zip(plain, wrapped, strict=True):
        assert all(a is b for a, b in zip(one["params"], other["params"], strict=True))
