"""Checkpoints of one family in layers of another, and mmcv's own upgrade of old keys."""

import pytest
import torch
from torch import nn

import dcn
from dcn import compat

PREDICTOR = {"weight": (27, 4, 3, 3), "bias": (27,)}


def layers():
    """The same layer as each family has it, and its spelling of the parts."""
    alone = {"conv": "conv", "offset": "conv.conv_offset"}
    return {
        "dcn": (dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1), alone),
        "mmcv": (compat.mmcv.ModulatedDeformConv2dPack(4, 6, 3, padding=1), alone),
        "CharlesShang": (
            compat.dcnv2.DCN(4, 6, 3, 1, 1),
            {"conv": "conv", "offset": "conv.conv_offset_mask"},
        ),
        "Paddle": (
            compat.paddle.DeformableConvV2(4, 6, 3, bias_attr=True),
            {"conv": "conv.conv_dcn", "offset": "conv.conv_offset"},
        ),
    }


def checkpoint(conv: str, offset: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        f"{conv}.weight": torch.rand(6, 4, 3, 3),
        f"{conv}.bias": torch.rand(6),
        f"{offset}.weight": torch.rand(PREDICTOR["weight"]) - 0.5,
        f"{offset}.bias": torch.rand(PREDICTOR["bias"]),
        "head.weight": torch.rand(2, 6),
        "head.bias": torch.rand(2),
    }


class Model(nn.Module):
    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv, self.head = conv, nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


SPELLINGS = {
    "mmcv": ("conv", "conv.conv_offset"),
    "mmdet 1": ("conv", "conv.conv_offset_mask"),
    "detectron2": ("conv", "conv_offset"),
    "Paddle": ("conv.conv_dcn", "conv.conv_offset"),
}


@pytest.mark.parametrize("source", SPELLINGS)
@pytest.mark.parametrize("target", ["dcn", "mmcv", "CharlesShang", "Paddle"])
def test_every_spelling_loads_into_every_layer(source, target):
    layer, _ = layers()[target]
    model, keys = Model(layer), checkpoint(*SPELLINGS[source])
    given = dict(keys)
    model.load_state_dict(compat.translate_keys(keys, model))
    assert keys == given  # not changed
    plain = Model(layers()["dcn"][0])
    plain.load_state_dict(checkpoint(*SPELLINGS["mmcv"]))
    x = torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(model(x), plain(x))


def test_birefnet_s_two_predictors_become_one():
    source = Model(compat.birefnet.DeformableConv2d(4, 6, bias=True))
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.3)
    target = Model(dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1, mask_scale=2))
    target.load_state_dict(compat.translate_keys(source.state_dict(), target))
    x = torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(target(x), source(x))


def test_a_mask_of_another_scale_is_refused():
    source = Model(compat.birefnet.DeformableConv2d(4, 6, bias=True))
    target = Model(dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1))
    with pytest.raises(ValueError, match=r"'conv' scales its mask by 1, but .*\(BiRefNet\) by 2"):
        compat.translate_keys(source.state_dict(), target)
    with pytest.raises(ValueError, match=r"'conv' scales its mask by 2, but .*dcn\) by 1"):
        compat.translate_keys(target.state_dict(), source)


def test_a_layer_that_is_the_model_itself():
    keys = {
        key.removeprefix("conv."): value
        for key, value in checkpoint("conv", "conv.conv_offset_mask").items()
    }
    del keys["head.weight"], keys["head.bias"]
    layer = dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    layer.load_state_dict(compat.translate_keys(keys, layer))
    assert torch.equal(layer.conv_offset.bias, keys["conv_offset_mask.bias"])


def test_versions_of_other_layers_stay():
    model = nn.Sequential(nn.BatchNorm2d(3))
    translated = compat.translate_keys(model.state_dict(), model)
    assert translated._metadata["0"]["version"] == 2


def load_whole(model: nn.Module, state_dict: dict[str, torch.Tensor], version: int | None):
    """As mmcv 1 loads: every module sees all keys. Returns what is missing and unexpected."""
    missing, unexpected = [], []

    def load(module, prefix):
        metadata = {} if version is None else {"version": version}
        module._load_from_state_dict(state_dict, prefix, metadata, True, missing, unexpected, [])
        for name, child in module.named_children():
            load(child, f"{prefix}{name}.")

    load(model, "")
    return missing


@pytest.mark.parametrize("name", ["DeformConv2dPack", "ModulatedDeformConv2dPack"])
@pytest.mark.parametrize("old", ["conv_offset", "conv.conv_offset_mask"])
def test_mmcv_upgrades_old_keys(name, old):
    layer = getattr(compat.mmcv, name)(4, 6, 3, padding=1)
    new = {f"conv.{key}": torch.rand_like(value) for key, value in layer.state_dict().items()}
    head = {"head.weight": torch.rand(2, 6), "head.bias": torch.rand(2)}
    keys = {key.replace("conv.conv_offset", old): value for key, value in new.items()} | head
    model = Model(layer)
    assert load_whole(model, dict(keys), version=None) == []
    assert torch.equal(layer.conv_offset.weight, new["conv.conv_offset.weight"])
    assert torch.equal(layer.conv_offset.bias, new["conv.conv_offset.bias"])
    # A checkpoint that says it is new is taken at its word.
    assert "conv.conv_offset.weight" in load_whole(model, dict(keys), version=2)
    assert model.state_dict()._metadata["conv"]["version"] == 2


def test_mmcv_loads_conv_offset_mask_the_usual_way():
    model = Model(compat.mmcv.ModulatedDeformConv2dPack(4, 6, 3, padding=1))
    keys = checkpoint("conv", "conv.conv_offset_mask")
    model.load_state_dict(keys)
    assert torch.equal(model.conv.conv_offset.weight, keys["conv.conv_offset_mask.weight"])
