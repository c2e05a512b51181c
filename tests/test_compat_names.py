"""What else a model sees of a family's layer: arguments, attributes, start, repr, dtypes."""

import inspect
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import dcn
from dcn import compat

GEOMETRY = "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1"
SIGNATURES = {
    compat.mmcv.DeformConv2d: f"{GEOMETRY} deform_groups=1 bias=False im2col_step=32",
    compat.mmcv.ModulatedDeformConv2d: f"{GEOMETRY} deform_groups=1 bias=True",
    compat.mmcv.deform_conv2d: "input offset weight stride=1 padding=0 dilation=1 groups=1 "
    "deform_groups=1 bias=False im2col_step=32",
    compat.mmcv.modulated_deform_conv2d: "input offset mask weight bias=None stride=1 padding=0 "
    "dilation=1 groups=1 deform_groups=1",
    compat.detectron2.DeformConv: f"{GEOMETRY} deformable_groups=1 bias=False norm=None "
    "activation=None",
    compat.detectron2.ModulatedDeformConv: f"{GEOMETRY} deformable_groups=1 bias=True norm=None "
    "activation=None",
    compat.detectron2.deform_conv: "input offset weight stride=1 padding=0 dilation=1 groups=1 "
    "deformable_groups=1 im2col_step=64",
    compat.detectron2.modulated_deform_conv: "input offset mask weight bias=None stride=1 "
    "padding=0 dilation=1 groups=1 deformable_groups=1",
    compat.dcnv2.DCN: "in_channels out_channels kernel_size stride padding dilation=1 "
    "deformable_groups=1",
    compat.dcnv2.DCNv2: "in_channels out_channels kernel_size stride padding dilation=1 "
    "deformable_groups=1",
    compat.dcnv2.dcn_v2_conv: "input offset mask weight bias stride padding dilation "
    "deformable_groups",
    compat.birefnet.DeformableConv2d: "in_channels out_channels kernel_size=3 stride=1 padding=1 "
    "bias=False",
    compat.paddle.DeformableConvV2: f"{GEOMETRY} bias_attr=None",
}


@pytest.mark.parametrize("what", SIGNATURES, ids=lambda what: what.__qualname__)
def test_arguments_and_defaults(what):
    parameters = inspect.signature(what).parameters.values()
    shown = [
        name.name if name.default is name.empty else f"{name.name}={name.default}"
        for name in parameters
        if name.name != "deformable_groups" or "mmcv" not in what.__module__
    ]
    assert " ".join(shown) == SIGNATURES[what]


@pytest.mark.parametrize("name", compat.mmcv.__all__[:4])
def test_mmcv_s_attributes_and_the_old_name(name):
    module = getattr(compat.mmcv, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = module(8, 6, 3, deform_groups=4)
    assert (layer.deform_groups, layer.transposed, layer.output_padding) == (4, False, (0,))
    with pytest.warns(DeprecationWarning, match=f"deprecated in `{name}`, please use") as caught:
        assert module(8, 6, 3, deformable_groups=4).deform_groups == 4
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="both were passed: 4 and 2"):
        module(8, 6, 3, deform_groups=2, deformable_groups=4)


def test_mmcv_s_v1_has_no_bias():
    for call in (
        lambda: compat.mmcv.DeformConv2dPack(4, 6, 3, bias=True),
        lambda: compat.mmcv.deform_conv2d(None, None, None, bias=True),
    ):
        with pytest.raises(ValueError, match="Only support bias is False"):
            call()
    assert compat.mmcv.ModulatedDeformConv2d(4, 6, 3, bias="auto").bias is not None


@pytest.mark.parametrize("groups", [1, 4])
def test_the_start_of_mmcv_s_v2_and_of_dcnv2(groups):
    """Uniform in +-1/sqrt(C*R*S), whatever the groups; bias and predictor zero."""
    layers = [compat.mmcv.ModulatedDeformConv2dPack(16, 64, 3, groups=groups)]
    if groups == 1:
        layers.append(compat.dcnv2.DCN(16, 64, 3, 1, 1))
    for layer in layers:
        bound = 1 / math.sqrt(16 * 9)
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        zero = [layer.bias, *next(iter(layer.children())).parameters()]
        assert not any(value.any() for value in zero)


@pytest.mark.parametrize(
    "layer",
    [
        compat.mmcv.DeformConv2d(16, 64, 3, groups=4),
        compat.detectron2.DeformConv(16, 64, 3, groups=4),
        compat.detectron2.ModulatedDeformConv(16, 64, 3, groups=4),
    ],
    ids=["mmcv", "detectron2 v1", "detectron2 v2"],
)
def test_the_start_of_the_others(layer):
    """He's uniform distribution for ReLU: bounded by sqrt(6 / fan_in), fan_in = C/G*R*S."""
    bound = math.sqrt(6 / (4 * 9))
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert layer.bias is None or not layer.bias.any()


def test_a_new_start():
    """`init_weights` draws anew, and makes the pack a convolution again."""
    layer = compat.mmcv.ModulatedDeformConv2dPack(4, 6, 3)
    nn.init.ones_(layer.conv_offset.weight)
    before = layer.weight.clone()
    layer.init_weights()
    assert not layer.conv_offset.weight.any() and not torch.equal(layer.weight, before)


def test_repr():
    assert repr(compat.mmcv.DeformConv2d(4, 6, 3, groups=2)) == (
        "DeformConv2d(in_channels=4,\nout_channels=6,\nkernel_size=(3, 3),\nstride=(1, 1),\n"
        "padding=(0, 0),\ndilation=(1, 1),\ngroups=2,\ndeform_groups=1,\nbias=False)"
    )
    assert repr(compat.mmcv.ModulatedDeformConv2d(4, 6, 3)) == "ModulatedDeformConv2d()"
    assert repr(compat.detectron2.ModulatedDeformConv(4, 6, 3, norm=nn.ReLU())).split("\n") == [
        "ModulatedDeformConv(",
        "  in_channels=4, out_channels=6, kernel_size=(3, 3), stride=1, padding=0, "
        "dilation=1, groups=1, deformable_groups=1, bias=True",
        "  (norm): ReLU()",
        ")",
    ]
    assert repr(compat.detectron2.DeformConv(4, 6, 3)) == (
        "DeformConv(in_channels=4, out_channels=6, kernel_size=(3, 3), stride=(1, 1), "
        "padding=(0, 0), dilation=(1, 1), groups=1, deformable_groups=1, bias=False)"
    )
    assert repr(compat.dcnv2.DCN(4, 6, 3, 1, 1)).startswith("DCN(\n  (conv_offset_mask): Conv2d(4")


def test_inputs_that_are_not_images():
    for module in (compat.mmcv, compat.detectron2):
        call = getattr(module, "deform_conv2d", None) or module.deform_conv
        with pytest.raises(ValueError, match="Expected 4D tensor as input, got 3D tensor instead"):
            call(torch.rand(4, 5, 5), torch.rand(1, 18, 5, 5), torch.rand(6, 4, 3, 3))


def test_mmcv_follows_a_16_bit_offset(device):
    """Also outside autocast, where the parameters are float32."""
    layer = compat.mmcv.ModulatedDeformConv2d(4, 6, 3, padding=1).to(device)
    shapes = [(1, 4, 5, 5), (1, 18, 5, 5), (1, 9, 5, 5)]
    x, offset, mask = (torch.rand(shape, device=device) for shape in shapes)
    out = layer(x, offset.half(), mask)
    expected = copy_of(layer).half()(x.half(), offset.half(), mask.half())
    assert out.dtype == torch.half and torch.equal(out, expected)


def copy_of(layer: compat.mmcv.ModulatedDeformConv2d) -> nn.Module:
    twin = compat.mmcv.ModulatedDeformConv2d(4, 6, 3, padding=1).to(layer.weight.device)
    twin.load_state_dict(layer.state_dict())
    return twin


def test_autocast_and_any_batch_size(device):
    layer = compat.mmcv.DeformConv2dPack(4, 6, 3, padding=1, im2col_step=2).to(device)
    with torch.autocast(device, torch.bfloat16):
        assert layer(torch.rand(5, 4, 6, 6, device=device)).dtype == torch.bfloat16


def test_detectron2_s_empty_batch_skips_norm_and_activation():
    def refuse(x):
        raise AssertionError("an empty batch reached the activation")

    layer = compat.detectron2.DeformConv(4, 6, 3, 2, 1, norm=nn.BatchNorm2d(6), activation=refuse)
    x, offset = (torch.rand(0, channels, *size) for channels, size in [(4, (8, 6)), (18, (4, 3))])
    assert layer(x.requires_grad_(), offset).shape == (0, 6, 4, 3)


def test_a_subclass_of_mmcv_s_layer_works_as_there():
    """Alignment modules in the wild inherit the layer and call the function."""

    class Alignment(compat.mmcv.ModulatedDeformConv2d):
        def __init__(self, *args, **kwargs):
            self.limit = kwargs.pop("limit", 10)
            super().__init__(*args, **kwargs)
            self.conv_offset = nn.Conv2d(4, 27 * self.deform_groups, 3, 1, 1)

        def forward(self, x):
            first, second, mask = torch.chunk(self.conv_offset(x), 3, dim=1)
            offset = self.limit * torch.tanh(torch.cat((first, second), dim=1))
            return compat.mmcv.modulated_deform_conv2d(
                x, offset, torch.sigmoid(mask), self.weight, self.bias, self.stride,
                self.padding, self.dilation, self.groups, self.deform_groups,
            )  # fmt: skip

    layer, x = Alignment(4, 6, 3, padding=1, deform_groups=2, limit=2), torch.rand(1, 4, 5, 5)
    predicted = layer.conv_offset(x)
    expected = dcn.deform_conv2d(
        x, 2 * predicted[:, :36].tanh(), layer.weight, layer.bias, padding=1,
        mask=predicted[:, 36:].sigmoid(),
    )  # fmt: skip
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        compat.mmcv.ModulatedDeformConv2dPack(4, 6, 3, padding=1),
        compat.dcnv2.DCN(4, 6, 3, 1, 1),
        compat.birefnet.DeformableConv2d(4, 6),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_compiles_without_a_break(layer):
    x = torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))


def test_the_families_hold_names_alone():
    """Short files, and no arithmetic on tensors: the operator is the one code path."""
    for path in Path(compat.__file__).parent.rglob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 150, path
        assert not any("grid_sample" in line or "einsum" in line for line in lines), path
