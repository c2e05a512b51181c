"""Converting built models: each family computes what it did, and what is not certain is left."""

import copy
from unittest import mock

import foreign
import pytest
import torch
from torch import nn

import dcn

F64 = torch.float64


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=F64)


LAYERS = {
    "mmcv v1": (
        lambda: foreign.DeformConv2d(4, 6, 3, 2, 1, 1, 2, 2),
        lambda: (rand(2, 4, 7, 6), rand(2, 36, 4, 3)),
    ),
    "mmcv v1 pack": (
        lambda: foreign.DeformConv2dPack(4, 6, 3, 2, 1, 1, 2, 2),
        lambda: (rand(2, 4, 7, 6),),
    ),
    "mmcv v2": (
        lambda: foreign.ModulatedDeformConv2d(4, 6, 3, 1, 2, 2, 2, 2),
        lambda: (rand(2, 4, 7, 6), rand(2, 36, 7, 6), rand(2, 18, 7, 6)),
    ),
    "mmcv v2 pack": (
        lambda: foreign.ModulatedDeformConv2dPack(4, 6, 3, 1, 2, 2, 2, 2),
        lambda: (rand(2, 4, 7, 6),),
    ),
    "mmdet 1": (
        lambda: foreign.ModulatedDeformConvPack(4, 6, 3, 1, 1, dg=2),
        lambda: (rand(2, 4, 7, 6),),
    ),
    "detectron2 v1": (
        lambda: foreign.DeformConv(4, 6, 3, 2, 1, 1, 2, 2),
        lambda: (rand(2, 4, 7, 6), rand(2, 36, 4, 3)),
    ),
    "detectron2 v2": (
        lambda: foreign.ModulatedDeformConv(4, 6, 3, 2, 1, 1, 2, 2),
        lambda: (rand(2, 4, 7, 6), rand(2, 36, 4, 3), rand(2, 18, 4, 3)),
    ),
    "CharlesShang DCNv2": (
        lambda: foreign.DCNv2(4, 6, 3, 2, 1, dg=2),
        lambda: (rand(2, 4, 7, 6), rand(2, 36, 4, 3), rand(2, 18, 4, 3)),
    ),
    "CharlesShang DCN": (lambda: foreign.DCN(4, 6, 3, 2, 1), lambda: (rand(2, 4, 7, 6),)),
    "BiRefNet": (
        lambda: foreign.DeformableConv2d(4, 6, 3, 2, 1, bias=True),
        lambda: (rand(2, 4, 7, 6),),
    ),
    "BasicVSR++": (
        lambda: foreign.SecondOrderDeformableAlignment(8, 4, 3, padding=1, dg=2),
        lambda: (rand(2, 8, 5, 6), rand(2, 12, 5, 6), rand(2, 2, 5, 6), rand(2, 2, 5, 6)),
    ),
    "ProPainter": (
        lambda: foreign.DeformableAlignment(4, 6, 3, padding=1, dg=2),
        lambda: (rand(2, 4, 5, 6), rand(2, 4, 5, 6), rand(2, 2, 5, 6)),
    ),
    "ProPainter flow completion": (
        lambda: foreign.FlowCompletionAlignment(4, 6, 3, padding=1, dg=2),
        lambda: (rand(2, 4, 5, 6), rand(2, 4, 5, 6)),
    ),
    "EDVR": (
        lambda: foreign.DCNv2Pack(4, 6, 3, padding=1, dg=2),
        lambda: (rand(2, 4, 5, 6), rand(2, 4, 5, 6)),
    ),
    "EDVR in mmagic": (
        lambda: foreign.ModulatedDCNPack(4, 6, 3, padding=1, dg=2),
        lambda: (rand(2, 4, 5, 6), rand(2, 4, 5, 6)),
    ),
}


@pytest.mark.parametrize("family", LAYERS)
def test_a_layer_computes_what_it_did(family, device):
    build, inputs = LAYERS[family]
    layer = build().to(device, F64)
    inputs = [value.to(device) for value in inputs()]
    plain = layer(*inputs)
    parameters = dict(layer.named_parameters())
    grad = torch.rand_like(plain)
    expected = torch.autograd.grad(plain, list(parameters.values()), grad)
    report = dcn.convert(layer)
    assert [row.why_left for row in report] == [""]
    assert type(layer).__module__.startswith("dcn.")
    assert all(value is parameters[name] for name, value in layer.named_parameters())
    out = layer(*inputs)
    torch.testing.assert_close(out, plain)
    got = torch.autograd.grad(out, list(parameters.values()), grad)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    repr(layer), copy.deepcopy(layer)(*inputs)


def test_torchvision(device):
    real = pytest.importorskip("torchvision")
    layer = real.ops.DeformConv2d(4, 6, 3, 2, 1, groups=2).to(device)
    inputs = [value.float().to(device) for value in LAYERS["detectron2 v2"][1]()]
    plain, shown = layer(*inputs), repr(layer)
    assert len(dcn.convert(layer).converted) == 1
    assert type(layer) is dcn.DeformConv2d and repr(layer) == shown
    torch.testing.assert_close(layer(*inputs), plain)


class Block(nn.Module):
    """A plain convolution, two deformable ones, and one of these twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1)
        self.second = foreign.ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        self.third = foreign.DCN(4, 4, 3, 1, 1)
        self.again = self.second

    def forward(self, x):
        return self.again(self.third(self.second(self.first(x))))


def test_everything_about_a_layer_stays():
    model = Block().half().to(memory_format=torch.channels_last).train()
    model.second.eval()
    model.third.weight.requires_grad_(False)
    keys, state = list(model.state_dict()), dict(model.named_parameters())
    calls = []
    model.second.register_forward_hook(lambda module, args, out: calls.append("forward"))
    model.third.conv_offset_mask.register_forward_pre_hook(lambda *_: calls.append("inner"))
    report = dcn.convert(model)
    assert [row.path for row in report.converted] == ["second", "third"]
    assert model.again is model.second and not model.second.training and model.third.training
    assert list(model.state_dict()) == keys
    for name, value in model.named_parameters():
        assert value is state[name] and value.dtype == torch.half
        assert value.requires_grad == (name != "third.weight")
    assert model.second.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.rand(1, 4, 5, 5).half().contiguous(memory_format=torch.channels_last)
    out = model(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert calls == ["forward", "inner", "forward"]


def test_an_optimizer_goes_on():
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dcn.convert(model)
    before = model.third.conv_offset_mask.weight.clone()
    model(torch.rand(1, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.third.conv_offset_mask.weight)


def test_compiled_code_follows():
    model = Block()
    compiled = torch.compile(model, backend="eager")
    x = torch.rand(1, 4, 5, 5)
    plain = compiled(x)
    dcn.convert(compiled)
    with mock.patch.object(foreign.reference, "deform_conv2d") as theirs:
        torch.testing.assert_close(compiled(x), plain)
    theirs.assert_not_called()


def clamped(self, x):
    offset = self.offset_conv(x).clamp(-1, 1)
    mask = 2.0 * torch.sigmoid(self.modulator_conv(x))
    weight, bias = self.regular_conv.weight, self.regular_conv.bias
    return foreign.torchvision.ops.deform_conv2d(
        x, offset, weight, bias, self.stride, self.padding, mask=mask
    )


def copy_of(base: type, **body) -> type:
    """The class as somebody's file holds it, perhaps changed."""
    return type(base.__name__, (base.__bases__[0],), {**vars(base), "__module__": "my.net", **body})


def layer_of(cls: type, base: type, *args) -> nn.Module:
    layer = cls.__new__(cls)
    layer.__dict__ = base(*args).__dict__
    return layer


def test_a_copy_from_elsewhere_is_left_unless_it_is_said_to_be_the_same():
    """Copies of this class that clamp their offsets are about: silently different results."""
    base = foreign.DeformableConv2d
    changed = copy_of(base, forward=clamped)
    layer = layer_of(changed, base, 4, 4)
    (row,) = dcn.convert(layer).left
    assert type(layer) is changed
    assert row.why_left == (
        "it may differ from the one of BiRefNet or birefnet or deform_conv; if not: "
        "convert(model, {DeformableConv2d: dcn.compat.birefnet.DeformableConv2d})"
    )
    same = copy_of(base)
    layer = layer_of(same, base, 4, 4)
    x = torch.rand(1, 4, 5, 5)
    plain = layer(x)
    report = dcn.convert(layer, {same: dcn.compat.birefnet.DeformableConv2d})
    assert [row.family for row in report.converted] == ["BiRefNet"]
    torch.testing.assert_close(layer(x), plain)


def test_a_copy_under_a_name_of_its_own_can_be_named():
    class Mine(foreign.DCN):
        pass

    layer = nn.Sequential(Mine(4, 4, 3, 1, 1))
    assert len(dcn.convert(layer, {Mine: dcn.compat.dcnv2.DCN}).converted) == 1
    assert type(layer[0]) is dcn.compat.dcnv2.DCN


def test_a_copy_can_only_be_the_same_as_a_known_layer():
    with pytest.raises(ValueError, match=r"expected one of dcn\.modules\.DeformConv2d, .* but got"):
        dcn.convert(nn.Identity(), {foreign.DCN: nn.Conv2d})


def test_layers_that_cannot_take_a_new_class_are_left():
    class Mine(foreign.DCN):
        pass

    wrapped = foreign.DCN(4, 4, 3, 1, 1)
    wrapped.forward = lambda x: x
    parametrized = foreign.DCN(4, 4, 3, 1, 1)
    nn.utils.parametrizations.weight_norm(parametrized)
    other = nn.Linear(2, 2)
    other.__class__ = type("DCN", (nn.Linear,), {"__module__": "dcn_v2"})
    model = nn.ModuleList([Mine(4, 4, 3, 1, 1), wrapped, parametrized, other])
    report = dcn.convert(model)
    assert report.converted == []
    assert [row.why_left for row in report] == [
        "a subclass of DCN may compute something else",
        "the instance has a forward of its own, that wraps the class's: convert before",
        "a subclass of DCN may compute something else",
        "it has no conv_offset_mask, deformable_groups, dilation, in_channels, kernel_size, "
        "out_channels, padding, stride, unlike CharlesShang DCN",
    ]
    torch.testing.assert_close(model[1](torch.ones(1)), torch.ones(1))


def test_what_is_dcn_s_already_is_not_touched():
    class Mine(dcn.compat.mmcv.ModulatedDeformConv2d):
        pass

    Mine.__name__ = "ModulatedDeformConv2dPack"
    model = nn.ModuleList(
        [dcn.DeformConv2d(4, 4, 3), Mine(4, 4, 3), dcn.compat.dcnv2.DCN(4, 4, 3, 1, 1)]
    )
    report = dcn.convert(model)
    assert len(report) == 0
    assert str(report) == "dcn.convert found no deformable layer of a known family"


def test_the_report_is_a_table():
    model = Block()
    model.third.forward = model.third.forward
    assert str(dcn.convert(model)).splitlines() == [
        "path    was                                                       is",
        "second  mmcv.ops.modulated_deform_conv.ModulatedDeformConv2dPack  "
        "dcn.compat.mmcv.packs.ModulatedDeformConv2dPack  (mmcv v2 pack)",
        "third   models.networks.DCNv2.dcn_v2.DCN                          "
        "left: the instance has a forward of its own, that wraps the class's: convert before",
        "1 converted, 1 left",
    ]
