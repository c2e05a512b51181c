"""The families: their keys, and their formulas written out in plain PyTorch, with gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dcn
from dcn import compat

MAP = (2, 4, 7, 6)  # [N, C, H, W] of the inputs
F64 = torch.float64


def random_state(layer: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A checkpoint with keys written down by hand; they must be the layer's."""
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == shapes
    return {key: torch.rand(shape, dtype=F64) * 0.4 - 0.2 for key, shape in shapes.items()}


def compare(layer, state, formula, inputs, device):
    """Values, and gradients of the inputs and of each entry of the checkpoint."""
    layer = layer.to(device, F64)
    layer.load_state_dict(state)
    state = {key: value.to(device).requires_grad_() for key, value in state.items()}
    inputs = [value.to(device, F64).requires_grad_() for value in inputs]
    expected, out = formula(state, *inputs), layer(*inputs)
    torch.testing.assert_close(out, expected)
    grad = torch.rand_like(out)
    wanted = torch.autograd.grad(expected, [*inputs, *state.values()], grad)
    parameters = dict(layer.named_parameters())
    got = torch.autograd.grad(out, [*inputs, *(parameters[key] for key in state)], grad)
    for name, ours, theirs in zip([*range(len(inputs)), *state], got, wanted, strict=True):
        assert theirs.abs().sum() > 0, name
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def rand(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.rand(shape, dtype=F64) * scale


def predict(state, name, x, *geometry):
    """Offset and mask as the packs predict them: thirds of one convolution's channels."""
    predicted = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], *geometry)
    first, second, logits = predicted.chunk(3, dim=1)
    return torch.cat([first, second], dim=1), torch.sigmoid(logits)


def test_mmcv_v1(device):
    layer = compat.mmcv.DeformConv2d(4, 6, (3, 1), 2, (1, 0), groups=2, deform_groups=2)
    state = random_state(layer, {"weight": (6, 2, 3, 1)})

    def formula(state, x, offset):
        return dcn.reference.deform_conv2d(x, offset, state["weight"], None, 2, (1, 0))

    compare(layer, state, formula, [rand(*MAP), rand(2, 12, 4, 3, scale=2)], device)


def test_mmcv_v2(device):
    layer = compat.mmcv.ModulatedDeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
    state = random_state(layer, {"weight": (6, 2, 3, 3), "bias": (6,)})

    def formula(state, x, offset, mask):
        weight, bias = state.values()
        return dcn.reference.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    compare(layer, state, formula, [rand(*MAP), rand(2, 36, 7, 6), rand(2, 18, 7, 6)], device)


def test_mmcv_v1_pack(device):
    layer = compat.mmcv.DeformConv2dPack(4, 6, 3, 2, 2, 2, deform_groups=2)
    state = random_state(
        layer,
        {"weight": (6, 4, 3, 3), "conv_offset.weight": (36, 4, 3, 3), "conv_offset.bias": (36,)},
    )

    def formula(state, x):
        offset = F.conv2d(x, state["conv_offset.weight"], state["conv_offset.bias"], 2, 2, 2)
        return dcn.reference.deform_conv2d(x, offset, state["weight"], None, 2, 2, 2)

    compare(layer, state, formula, [rand(*MAP)], device)


def test_mmcv_v2_pack(device):
    layer = compat.mmcv.ModulatedDeformConv2dPack(4, 6, 3, 2, 2, 2, 2, 2)
    state = random_state(
        layer,
        {
            "weight": (6, 2, 3, 3),
            "bias": (6,),
            "conv_offset.weight": (54, 4, 3, 3),
            "conv_offset.bias": (54,),
        },
    )

    def formula(state, x):
        offset, mask = predict(state, "conv_offset", x, 2, 2, 2)
        weight, bias = state["weight"], state["bias"]
        return dcn.reference.deform_conv2d(x, offset, weight, bias, 2, 2, 2, mask)

    compare(layer, state, formula, [rand(*MAP)], device)


@pytest.mark.parametrize(
    "size, kernel, stride, padding, dilation",
    [
        ((3, 4), (5, 5), 1, 2, 1),
        ((1, 1), (3, 3), 1, 1, 1),
        ((1, 6), (5, 1), 1, 2, 1),
        ((6, 2), (3, 3), 1, 2, 2),
        ((4, 6), (5, 3), 2, 2, 1),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["anywhere", "on the pixels"])
def test_mmcv_pads_small_inputs_and_crops_them_with_the_same_result(
    size, kernel, stride, padding, dilation, whole, device
):
    """Also at positions beyond the map that the padding would take in, and at its border."""
    layer = compat.mmcv.DeformConv2d(4, 6, kernel, stride, padding, dilation)
    state = random_state(layer, {"weight": (6, 4, *kernel)})
    pad_h, pad_w = (max(r - h, 0) for h, r in zip(size, kernel, strict=True))
    assert pad_h or pad_w

    def formula(state, x, offset):
        x, offset = (F.pad(value, (0, pad_w, 0, pad_h)) for value in (x, offset))
        geometry = (stride, padding, dilation)
        out = dcn.reference.deform_conv2d(x, offset, state["weight"], None, *geometry)
        return out[:, :, : out.shape[2] - pad_h, : out.shape[3] - pad_w]

    output = [
        (h + 2 * padding - dilation * (r - 1) - 1) // stride + 1
        for h, r in zip(size, kernel, strict=True)
    ]
    offset = rand(2, 2 * kernel[0] * kernel[1], *output, scale=6) - 3
    compare(layer, state, formula, [rand(2, 4, *size), offset.round() if whole else offset], device)


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
def test_detectron2(modulated, device):
    kind = compat.detectron2.ModulatedDeformConv if modulated else compat.detectron2.DeformConv
    layer = kind(4, 6, 3, 2, 1, 1, 2, 2, modulated, nn.GroupNorm(2, 6), F.relu)
    bias = {"bias": (6,)} if modulated else {}
    state = random_state(
        layer, {"weight": (6, 2, 3, 3), **bias, "norm.weight": (6,), "norm.bias": (6,)}
    )
    state["norm.bias"] += 0.5  # so that the activation lets much through

    def formula(state, x, offset, mask=None):
        out = dcn.reference.deform_conv2d(
            x, offset, state["weight"], state.get("bias"), 2, 1, mask=mask
        )
        return F.group_norm(out, 2, state["norm.weight"], state["norm.bias"]).relu()

    inputs = [rand(*MAP), rand(2, 36, 4, 3, scale=2), rand(2, 18, 4, 3)]
    compare(layer, state, formula, inputs if modulated else inputs[:2], device)


def test_charlesshang(device):
    layer = compat.dcnv2.DCN(4, 6, 3, stride=2, padding=1, deformable_groups=2)
    state = random_state(
        layer,
        {
            "weight": (6, 4, 3, 3),
            "bias": (6,),
            "conv_offset_mask.weight": (54, 4, 3, 3),
            "conv_offset_mask.bias": (54,),
        },
    )

    def formula(state, x):
        offset, mask = predict(state, "conv_offset_mask", x, 2, 1)
        weight, bias = state["weight"], state["bias"]
        return dcn.reference.deform_conv2d(x, offset, weight, bias, 2, 1, mask=mask)

    compare(layer, state, formula, [rand(*MAP)], device)


def test_charlesshang_does_not_dilate_its_offset_convolution():
    """Padding 2 then makes it two larger than the map: the offsets do not fit, as there."""
    layer = compat.dcnv2.DCN(4, 6, 3, 1, 2, dilation=2)
    assert layer.conv_offset_mask.dilation == (1, 1) and layer.dilation == (2, 2)
    with pytest.raises(RuntimeError, match=r"offset output dims: \(9, 8\)"):
        layer(rand(*MAP).float())


def test_charlesshang_with_offsets_from_elsewhere(device):
    layer = compat.dcnv2.DCNv2(4, 6, (3, 1), 1, (1, 0), 1, 2)
    state = random_state(layer, {"weight": (6, 4, 3, 1), "bias": (6,)})

    def formula(state, x, offset, mask):
        weight, bias = state.values()
        return dcn.reference.deform_conv2d(x, offset, weight, bias, 1, (1, 0), mask=mask)

    compare(layer, state, formula, [rand(*MAP), rand(2, 12, 7, 6), rand(2, 6, 7, 6)], device)


@pytest.mark.parametrize("bias", [False, True])
def test_birefnet(bias, device):
    layer = compat.birefnet.DeformableConv2d(4, 6, 3, 2, 1, bias=bias)
    state = random_state(
        layer,
        {
            "offset_conv.weight": (18, 4, 3, 3),
            "offset_conv.bias": (18,),
            "modulator_conv.weight": (9, 4, 3, 3),
            "modulator_conv.bias": (9,),
            "regular_conv.weight": (6, 4, 3, 3),
            **({"regular_conv.bias": (6,)} if bias else {}),
        },
    )

    def formula(state, x):
        offset = F.conv2d(x, state["offset_conv.weight"], state["offset_conv.bias"], 2, 1)
        logits = F.conv2d(x, state["modulator_conv.weight"], state["modulator_conv.bias"], 2, 1)
        weight, bias = state["regular_conv.weight"], state.get("regular_conv.bias")
        mask = 2 * logits.sigmoid()
        return dcn.reference.deform_conv2d(x, offset, weight, bias, 2, 1, mask=mask)

    compare(layer, state, formula, [rand(*MAP)], device)


def test_paddle(device):
    layer = compat.paddle.DeformableConvV2(4, 6, 3, 2, dilation=2, groups=2, bias_attr=True)
    state = random_state(
        layer,
        {
            "conv_offset.weight": (27, 4, 3, 3),
            "conv_offset.bias": (27,),
            "conv_dcn.weight": (6, 2, 3, 3),
            "conv_dcn.bias": (6,),
        },
    )

    def formula(state, x):
        offset, mask = predict(state, "conv_offset", x, 2, 1)
        weight, bias = state["conv_dcn.weight"], state["conv_dcn.bias"]
        return dcn.reference.deform_conv2d(x, offset, weight, bias, 2, 2, 2, mask)

    compare(layer, state, formula, [rand(*MAP)], device)


def offset_network(state, features):
    for layer in (0, 2, 4):
        weight, bias = (state[f"conv_offset.{layer}.{name}"] for name in ("weight", "bias"))
        features = F.leaky_relu(F.conv2d(features, weight, bias, padding=1), 0.1)
    return F.conv2d(features, state["conv_offset.6.weight"], state["conv_offset.6.bias"], padding=1)


def test_basicvsr(device):
    """Half of the offset groups follow the first flow, half the second; flow is (x, y)."""
    layer = compat.video.SecondOrderDeformableAlignment(
        8, 4, 3, padding=1, deform_groups=4, max_residue_magnitude=3
    )
    convs = {0: (4, 16, 3, 3), 2: (4, 4, 3, 3), 4: (4, 4, 3, 3), 6: (108, 4, 3, 3)}
    shapes = {"weight": (4, 8, 3, 3), "bias": (4,)}
    for index, shape in convs.items():
        shapes |= {f"conv_offset.{index}.weight": shape, f"conv_offset.{index}.bias": shape[:1]}
    state = random_state(layer, shapes)

    def formula(state, x, features, flow_1, flow_2):
        predicted = offset_network(state, torch.cat([features, flow_1, flow_2], dim=1))
        residue = 3 * torch.tanh(predicted[:, :72])
        offset = [
            residue[:, channel] + (flow_1, flow_2)[channel // 36][:, 1 - channel % 2]
            for channel in range(72)
        ]
        mask = torch.sigmoid(predicted[:, 72:])
        weight, bias = state["weight"], state["bias"]
        offset = torch.stack(offset, dim=1)
        return dcn.reference.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    inputs = [rand(2, 8, 5, 6), rand(2, 12, 5, 6), rand(2, 2, 5, 6), rand(2, 2, 5, 6, scale=2)]
    compare(layer, state, formula, inputs, device)


@pytest.mark.parametrize("flows", [0, 1])
def test_an_offset_network_of_ones_own(flows, device):
    """One flow moves every offset group (ProPainter), and without any the residue is all."""
    layer = compat.video.FlowGuidedDeformConv2d(
        4, 6, 3, padding=1, conv_offset=nn.Conv2d(5, 27, 1), max_residue_magnitude=5
    )
    state = random_state(
        layer,
        {
            "weight": (6, 4, 3, 3),
            "bias": (6,),
            "conv_offset.weight": (27, 5, 1, 1),
            "conv_offset.bias": (27,),
        },
    )

    def formula(state, x, features, flow=None):
        predicted = F.conv2d(features, state["conv_offset.weight"], state["conv_offset.bias"])
        offset = 5 * torch.tanh(predicted[:, :18])
        if flow is not None:
            offset = offset + flow[:, [1, 0] * 9]
        weight, bias, mask = state["weight"], state["bias"], predicted[:, 18:].sigmoid()
        return dcn.reference.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    inputs = [rand(*MAP), rand(2, 5, 7, 6), rand(2, 2, 7, 6)]
    compare(layer, state, formula, inputs[: 2 + flows], device)


def test_flows_must_divide_the_offset_groups():
    layer = compat.video.SecondOrderDeformableAlignment(8, 4, 3, padding=1, deform_groups=1)
    inputs = [torch.rand(1, channels, 5, 6) for channels in (8, 12, 2, 2)]
    with pytest.raises(ValueError, match=r"that 2 flows share evenly, but got 9 \(y, x\) pairs"):
        layer(*inputs)


def test_edvr(device):
    layer = compat.video.DCNv2Pack(4, 6, 3, padding=1, deform_groups=2)
    state = random_state(
        layer,
        {
            "weight": (6, 4, 3, 3),
            "bias": (6,),
            "conv_offset.weight": (54, 4, 3, 3),
            "conv_offset.bias": (54,),
        },
    )

    def formula(state, x, features):
        offset, mask = predict(state, "conv_offset", features, 1, 1)
        weight, bias = state["weight"], state["bias"]
        return dcn.reference.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    compare(layer, state, formula, [rand(*MAP), rand(*MAP)], device)
