"""Weights packed before: their sizes, and what keeps and drops them. All of it without a GPU."""

import copy
import math
from unittest import mock

import pytest
import torch
from cases import CASES, Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    FEW,
    STURDY,
    channels,
    choices,
    forced_plan,
    packed_sizes,
    sm80_tiles,
    tf32_as,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import dcn
from dcn import compat

PACKS = [dcn.DeformConv2dPack, dcn.ModulatedDeformConv2dPack]


# The plan and the operator, without a GPU.


@EACH_ARITHMETIC
@pytest.mark.parametrize("case", [*FEW, channels(200, k=300)], ids=lambda case: case.name)
def test_one_packed_weight_serves_every_tile_of_sm90(case, kind):
    bytes_ = math.prod(packed_sizes(case, kind)) * kind.dtype.itemsize
    tiles = {tile for tile, _ in choices(case, kind)} - set(sm80_tiles(case, kind))
    assert tiles
    for tile in tiles:
        whole = forced_plan(case, kind, tile, 1)
        assert whole is None or whole.workspace_bytes == bytes_
        assert whole is None or not whole.prepacked


@EACH_ARITHMETIC
def test_sizes_and_dtype_tell_arithmetics_apart(kind):
    case = Case("", c=32, k=64)  # one slice of either width
    others = [each for each in ARITHMETICS if each.dtype.itemsize != kind.dtype.itemsize]
    if kind.wide:
        others += [each for each in ARITHMETICS if each.wide and each is not kind]
    assert all(packed_sizes(case, other) != packed_sizes(case, kind) for other in others)


@EACH_ARITHMETIC
def test_the_fake_operator_gives_the_sizes_of_the_plan(kind):
    with FakeTensorMode(), tf32_as(kind):
        weight = torch.empty(72, 72, 3, 3, dtype=kind.dtype, device="cuda")
        packed = torch.ops.dcn.pack_weight(weight, 2, 2)
        with pytest.raises(NotImplementedError, match="im2col_gemm"):
            torch.ops.dcn.pack_weight(weight.new_empty(73, 1, 3, 3), 73, 1)
        with pytest.raises(NotImplementedError, match="f64 is left out"):
            torch.ops.dcn.pack_weight(weight.double(), 2, 2)
    assert list(packed.shape) == packed_sizes(STURDY, kind)
    assert (packed.dtype, packed.device.type) == (kind.dtype, "cuda")


def test_no_weight_is_packed_on_the_cpu():
    with pytest.raises(NotImplementedError, match="pack_weight: fused runs on a GPU"):
        torch.ops.dcn.pack_weight(torch.rand(4, 4, 3, 3), 1, 1)


@pytest.mark.parametrize(
    "weight, groups, message",
    [
        (torch.rand(4, 4, 3), (1, 1), r"\[K, C/G, R, S\] without zero sizes, but got \[4, 4, 3\]"),
        (torch.rand(4, 0, 3, 3), (1, 1), "without zero sizes"),
        (torch.ones(4, 4, 3, 3, dtype=torch.int32), (1, 1), "dtype .*, but got Int"),
        (torch.rand(4, 4, 3, 3), (3, 1), r"output channels \(4\) .* by groups \(3\)"),
        (torch.rand(4, 4, 3, 3), (0, 1), r"by groups \(0\)"),
        (torch.rand(4, 4, 3, 3), (2, 3), r"input channels \(8\) .* by offset groups \(3\)"),
    ],
)
def test_weights_that_no_call_has_are_refused(weight, groups, message):
    with pytest.raises(RuntimeError, match="pack_weight: .*" + message):
        torch.ops.dcn.pack_weight(weight, *groups)


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_a_packed_weight_changes_nothing_on_the_cpu(case):
    tensors = case.tensors(requires_grad=True)
    leaves = [value for value in tensors.values() if value is not None]
    without = torch.ops.dcn.deform_conv2d(*case.arguments(tensors))
    beside = torch.ops.dcn.deform_conv2d(*case.arguments(tensors), 0, torch.rand(3, 4, 5))
    assert torch.equal(without, beside)
    pairs = zip(*(torch.autograd.grad(out.sum(), leaves) for out in (without, beside)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# Modules. On a machine without a GPU a stand-in is packed.


def stand_in(layer: dcn.DeformConv2d, offset_groups: int = 1) -> dcn.DeformConv2d:
    layer.eval().packed_weight = torch.rand(3, 64, 32)
    layer.packed_offset_groups = offset_groups
    return layer


def passed_on(layer: nn.Module, *inputs: torch.Tensor) -> torch.Tensor | None:
    """The packed weight that a call of the layer gives the operator."""
    with mock.patch.object(torch.ops.dcn, "deform_conv2d", wraps=torch.ops.dcn.deform_conv2d) as op:
        layer(*inputs)
    return op.call_args.args[11]


def test_prepack_returns_the_module_and_leaves_a_cpu_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), PACKS[1](4, 6, 3, padding=1)).eval()
    keys, x = list(model.state_dict()), torch.rand(1, 4, 5, 5)
    expected = model(x)
    assert dcn.prepack(model) is model
    assert model[1].packed_weight is None
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), expected)


def test_a_layer_in_training_mode_is_refused():
    model = nn.Sequential(PACKS[0](4, 6, 3), nn.Sequential(PACKS[1](4, 6, 3))).eval()
    model[1][0].train()
    with pytest.raises(ValueError, match=r"prepack: .* eval mode, but 1\.0 is in training mode"):
        dcn.prepack(model)
    with pytest.raises(ValueError, match="but the module is in training mode"):
        dcn.prepack(PACKS[0](4, 6, 3))


@pytest.mark.parametrize("pack", PACKS)
def test_each_layer_is_packed_for_its_own_offset_groups(pack):
    model = nn.ModuleList([pack(4, 6, 3, offset_groups=2), dcn.DeformConv2d(8, 6, 3, groups=2)])
    with mock.patch.object(torch.ops.dcn, "pack_weight") as op:
        op.side_effect = [torch.rand(1, 2, 3), torch.rand(1, 2, 3)]
        dcn.prepack(model.eval(), offset_groups=4)
    assert [call.args[1:] for call in op.call_args_list] == [(1, 2), (2, 4)]
    assert [layer.packed_offset_groups for layer in model] == [2, 4]
    assert all(layer.packed_weight is not None for layer in model)


def test_a_call_with_other_offset_groups_packs_for_itself():
    layer, x = stand_in(dcn.DeformConv2d(4, 6, 3), 2), torch.rand(1, 4, 5, 5)
    assert passed_on(layer, x, torch.zeros(1, 36, 3, 3)) is layer.packed_weight
    assert passed_on(layer, x, torch.zeros(1, 18, 3, 3)) is None
    layer.drop_packed_weight()
    assert passed_on(layer, x, torch.zeros(1, 36, 3, 3)) is None


@pytest.mark.parametrize("pack", PACKS)
def test_a_pack_passes_its_packed_weight_on(pack):
    layer, x = stand_in(pack(4, 6, 3, offset_groups=2), 2), torch.rand(1, 4, 5, 5)
    expected = copy.deepcopy(layer).requires_grad_(False).train()(x)
    assert passed_on(layer, x) is layer.packed_weight
    assert torch.equal(layer(x), expected)


TWO_GROUPS = torch.zeros(1, 36, 3, 3), torch.ones(1, 18, 3, 3)  # offset and mask of D = 2
FAMILIES = {
    "mmcv v1": (compat.mmcv.DeformConv2d(4, 6, 3, deform_groups=2), TWO_GROUPS[:1]),
    "mmcv v2": (compat.mmcv.ModulatedDeformConv2d(4, 6, 3, deform_groups=2), TWO_GROUPS),
    "mmcv v1 pack": (compat.mmcv.DeformConv2dPack(4, 6, 3, deform_groups=2), ()),
    "mmcv v2 pack": (compat.mmcv.ModulatedDeformConv2dPack(4, 6, 3, deform_groups=2), ()),
    "detectron2 v1": (compat.detectron2.DeformConv(4, 6, 3, deformable_groups=2), TWO_GROUPS[:1]),
    "detectron2 v2": (
        compat.detectron2.ModulatedDeformConv(4, 6, 3, deformable_groups=2), TWO_GROUPS,
    ),
    "DCNv2": (compat.dcnv2.DCNv2(4, 6, 3, 1, 0, deformable_groups=2), TWO_GROUPS),
    "DCN": (compat.dcnv2.DCN(4, 6, 3, 1, 0, deformable_groups=2), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_other_families(name):
    layer, more = FAMILIES[name]
    x = torch.rand(1, 4, 5, 5)
    with mock.patch.object(torch.ops.dcn, "pack_weight", return_value=torch.rand(1, 2, 3)) as op:
        dcn.prepack(layer.eval())
    assert op.call_args.args[1:] == (1, 2)
    assert passed_on(layer, x, *more) is layer.packed_weight
    layer.train()
    assert passed_on(layer, x, *more) is None


def test_a_converted_layer():
    torchvision = pytest.importorskip("torchvision")
    model = nn.Sequential(torchvision.ops.DeformConv2d(4, 6, 3))
    keys = list(model.state_dict())
    dcn.convert(model)
    assert model[0].packed_weight is None and list(model.state_dict()) == keys
    offset = torch.zeros(1, 18, 3, 3)
    assert passed_on(stand_in(model[0]), torch.rand(1, 4, 5, 5), offset) is not None


def test_state_dicts_and_copies():
    layer = dcn.DeformConv2d(4, 6, 3)
    keys = list(layer.state_dict())
    stand_in(layer)
    assert list(layer.state_dict()) == keys
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.packed_weight, layer.packed_weight)
    assert twin.packed_weight is not layer.packed_weight
    assert twin.packed_offset_groups == 1
    twin.train()
    assert twin.packed_weight is None and layer.packed_weight is not None


DROPPING = {
    "train()": lambda layer: layer.train(),
    "train() of the model": lambda layer: nn.Sequential(layer).train(),
    "load_state_dict": lambda layer: layer.load_state_dict(layer.state_dict()),
    "load_state_dict, assign": lambda layer: layer.load_state_dict(layer.state_dict(), assign=True),
    "load_state_dict of the model": lambda layer: nn.Sequential(layer).load_state_dict(
        nn.Sequential(layer).state_dict()
    ),
    "half()": lambda layer: layer.half(),
    "to(f64) of the model": lambda layer: nn.Sequential(layer).to(torch.float64),
}
KEEPING = {
    "eval()": lambda layer: layer.eval(),
    "to(channels_last)": lambda layer: layer.to(memory_format=torch.channels_last),
    "float()": lambda layer: layer.float(),
    "requires_grad_": lambda layer: layer.requires_grad_(False),
}


@pytest.mark.parametrize("way", [*DROPPING, *KEEPING])
@pytest.mark.parametrize("make", [dcn.DeformConv2d, *PACKS])
def test_what_drops_the_packed_weight(make, way):
    layer = stand_in(make(4, 6, 3))
    (DROPPING | KEEPING)[way](layer)
    assert (layer.packed_weight is None) == (way in DROPPING)


def test_a_move_takes_the_packed_weight_along():
    layer = stand_in(dcn.DeformConv2d(4, 6, 3)).to("meta")
    assert layer.packed_weight.is_meta and layer.packed_offset_groups == 1


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("prepare", [lambda layer: layer, stand_in], ids=["plain", "packed"])
def test_torchscript(prepare):
    layer, x = prepare(PACKS[1](4, 6, 3)).eval(), torch.rand(1, 4, 5, 5)
    assert torch.equal(torch.jit.script(layer)(x), layer(x))


def test_a_compiled_module():
    layer, x = stand_in(PACKS[1](4, 6, 3)), torch.rand(1, 4, 5, 5)
    with torch.no_grad():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), layer(x))
