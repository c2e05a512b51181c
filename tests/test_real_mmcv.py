"""The installed mmcv, where there is one with its compiled operators, beside `dcn.compat.mmcv`.

CI has none: mmcv compiles all of its operators for many minutes. docs/migrating.md says which
version these tests have passed with.
"""

import copy
import inspect

import pytest
import torch
from torch import nn

import dcn
from dcn.compat import mmcv as ours

theirs = pytest.importorskip("mmcv.ops", exc_type=ImportError)
F64 = torch.float64


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=F64)


# Constructor arguments behind the channels and the kernel; inputs behind x.
LAYERS = {
    "DeformConv2d": (dict(stride=2, padding=1, groups=2, deform_groups=2), [(2, 36, 4, 3)]),
    "DeformConv2dPack": (dict(stride=2, padding=1, deform_groups=2), []),
    "ModulatedDeformConv2d": (
        dict(padding=2, dilation=2, groups=2, deform_groups=2),
        [(2, 36, 7, 6), (2, 18, 7, 6)],
    ),
    "ModulatedDeformConv2dPack": (dict(padding=1, deform_groups=2, bias=False), []),
}
EACH_LAYER = pytest.mark.parametrize("name", LAYERS)


def layer_of(package, name: str) -> nn.Module:
    options, _ = LAYERS[name]
    layer = getattr(package, name)(4, 6, 3, **options)
    torch.manual_seed(1)
    for parameter in layer.parameters():  # also those that start as zero
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


def inputs_of(name: str) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [rand(*shape).requires_grad_() for shape in ((2, 4, 7, 6), *LAYERS[name][1])]


def output_and_gradients(layer: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    out = layer(*inputs)
    grad = torch.linspace(-1, 1, out.numel(), dtype=F64).reshape(out.shape)
    return [out, *torch.autograd.grad(out, [*inputs, *layer.parameters()], grad)]


@EACH_LAYER
def test_the_same_values_gradients_and_keys(name):
    real, mine = layer_of(theirs, name), layer_of(ours, name)
    assert list(mine.state_dict()) == list(real.state_dict())
    mine.load_state_dict(real.state_dict())
    inputs = inputs_of(name)
    expected = output_and_gradients(real, inputs)
    torch.testing.assert_close(output_and_gradients(mine, inputs), expected)


@EACH_LAYER
def test_a_built_layer_is_converted(name):
    real = layer_of(theirs, name)
    inputs = inputs_of(name)
    expected = output_and_gradients(real, inputs)
    model = nn.Sequential(real)
    (row,) = dcn.convert(model)
    assert row.why_left == "" and row.layer.startswith("mmcv.ops.")
    assert type(real).__module__.startswith("dcn.compat.mmcv")
    torch.testing.assert_close(output_and_gradients(real, inputs), expected)
    copy.deepcopy(model)


@EACH_LAYER
def test_everything_public_is_there(name):
    real, mine = getattr(theirs, name), getattr(ours, name)
    instance = layer_of(ours, name)
    for attribute in vars(layer_of(theirs, name)):
        assert attribute.startswith("_") or hasattr(instance, attribute), attribute
    for attribute in vars(real):
        assert attribute.startswith("__") or hasattr(mine, attribute), attribute
    assert mine._version == real._version
    assert repr(instance) == repr(layer_of(theirs, name))
    for function in ("__init__", "forward"):
        expected, got = (
            list(inspect.signature(getattr(cls, function)).parameters.values())
            for cls in (real, mine)
        )
        assert [(one.name, one.default) for one in got[: len(expected)]] == [
            (one.name, one.default) for one in expected
        ]


def test_functions_take_the_same_arguments():
    x, offset, mask = rand(2, 4, 7, 6), rand(2, 36, 4, 3), rand(2, 18, 4, 3)
    weight, bias = rand(6, 2, 3, 3), rand(6)
    geometry = (2, 1, 1, 2, 2)
    for name, arguments in {
        "deform_conv2d": (x, offset, weight, *geometry, False, 2),
        "modulated_deform_conv2d": (x, offset, mask, weight, bias, *geometry),
    }.items():
        expected, got = (getattr(package, name)(*arguments) for package in (theirs, ours))
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("size", [(2, 6), (3, 1), (2, 2)])
def test_inputs_smaller_than_the_kernel(size):
    """There they are padded, and the output is cropped."""
    real, mine = (package.DeformConv2d(4, 6, 3, padding=1).double() for package in (theirs, ours))
    mine.load_state_dict(real.state_dict())
    x, offset = rand(2, 4, *size), rand(2, 18, *size)
    torch.testing.assert_close(mine(x, offset), real(x, offset))


@pytest.mark.parametrize("name", ["DeformConv2dPack", "ModulatedDeformConv2dPack"])
@pytest.mark.parametrize("package", [theirs, ours], ids=["mmcv", "dcn"])
def test_checkpoints_of_before_version_2(package, name):
    """`conv2_offset.*` beside `conv2.*`: the loader of mmcv 1 showed a layer all keys, today's
    (and PyTorch's) the layer's own, so that only `translate_keys` finds them."""
    state = layer_of(theirs, name).state_dict()
    old = {f"conv2.{key}".replace("conv2.conv_offset", "conv2_offset"): state[key] for key in state}
    seen, errors = dict(old), ([], [], [])  # missing, unexpected, other
    layer = getattr(package, name)(4, 6, 3, **LAYERS[name][0]).double()
    layer._load_from_state_dict(seen, "conv2.", {}, True, *errors)
    assert seen.keys() == {f"conv2.{key}" for key in state} and errors == ([], [], [])

    model = nn.ModuleDict({"conv2": getattr(package, name)(4, 6, 3, **LAYERS[name][0])}).double()
    model.load_state_dict(dcn.compat.translate_keys(old, model))
    for key, value in model["conv2"].state_dict().items():
        assert torch.equal(value, state[key])


def test_a_configuration_builds_ours():
    """What `dict(type="DCNv2")` of a configuration becomes once ours is registered for it."""
    from mmcv.cnn import ConvModule
    from mmengine.registry import MODELS

    def build() -> ConvModule:
        conv = dict(type="DCNv2", deform_groups=2)
        torch.manual_seed(0)
        return ConvModule(4, 6, 3, padding=1, conv_cfg=conv, norm_cfg=dict(type="BN")).double()

    before = MODELS.get("DCNv2")
    real = build()
    try:
        MODELS.register_module("DCNv2", module=ours.ModulatedDeformConv2dPack, force=True)
        mine = build()
    finally:
        MODELS.register_module("DCNv2", module=before, force=True)
    assert type(mine.conv) is ours.ModulatedDeformConv2dPack
    assert list(mine.state_dict()) == list(real.state_dict())
    mine.load_state_dict(real.state_dict())
    x = rand(2, 4, 7, 6)
    torch.testing.assert_close(mine(x), real(x))
