"""The reference against the formula in Python loops, against torchvision, and at the edges."""

import math

import pytest
import torch
from cases import CASES, Case

from dcn import reference

NAN, INF = math.nan, math.inf


def loops(input, offset, weight, bias, mask, stride, padding, dilation):
    """The definition, one multiplication at a time."""
    n, c, h, w = input.shape
    k, channels, r, s = weight.shape
    _, _, p, q = offset.shape
    offset_groups = offset.shape[1] // (2 * r * s)
    out = torch.zeros(n, k, p, q, dtype=input.dtype)
    for image, i, j, row, col in torch.cartesian_prod(*map(torch.arange, (n, p, q, r, s))).tolist():
        for channel in range(c):
            d, tap = channel // (c // offset_groups), row * s + col
            at = 2 * (d * r * s + tap)
            y = i * stride[0] - padding[0] + row * dilation[0] + offset[image, at, i, j].item()
            x = j * stride[1] - padding[1] + col * dilation[1] + offset[image, at + 1, i, j].item()
            value = 0.0
            for yy in range(math.floor(y), math.floor(y) + 2):
                for xx in range(math.floor(x), math.floor(x) + 2):
                    if 0 <= yy < h and 0 <= xx < w:
                        near = (1 - abs(y - yy)) * (1 - abs(x - xx))
                        value += near * input[image, channel, yy, xx].item()
            if mask is not None:
                value *= mask[image, d * r * s + tap, i, j].item()
            group = channel // channels
            mine = slice(group * (k // (c // channels)), (group + 1) * (k // (c // channels)))
            out[image, mine, i, j] += weight[mine, channel % channels, row, col] * value
    return out if bias is None else out + bias[:, None, None]


def run(case: Case, function=reference.deform_conv2d, **tensors):
    return function(**(case.tensors() | tensors), **case.geometry)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.n * case.c < 13], ids=lambda case: case.name
)
def test_values_are_those_of_the_formula(case):
    torch.testing.assert_close(run(case), run(case, loops), rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_gradients_are_those_of_torchvision(case):
    torchvision = pytest.importorskip("torchvision")
    results = []
    for function in (reference.deform_conv2d, torchvision.ops.deform_conv2d):
        tensors = case.tensors(requires_grad=True)
        out = run(case, function, **tensors)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape))
        results.append([out.detach(), *(t.grad for t in tensors.values() if t is not None)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "groups", "dilation", "5x1"])
def test_gradients_are_derivatives(name):
    case = next(case for case in CASES if case.name == name)
    tensors = case.tensors(requires_grad=True)

    def function(*values):
        return run(case, **dict(zip(tensors, values, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), fast_mode=True)


def one_tap(offset_y: float, offset_x: float, value: float = 1.0, mask: float = 1.0):
    """A 1x1 convolution of a 3x3 image whose centre's sample is moved: output and leaves."""
    tensors = {
        "input": torch.full((1, 1, 3, 3), value, dtype=torch.float64),
        "offset": torch.zeros(1, 2, 3, 3, dtype=torch.float64),
        "weight": torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64),
        "mask": torch.full((1, 1, 3, 3), 1.0, dtype=torch.float64),
    }
    tensors["offset"][0, :, 1, 1] = torch.tensor([offset_y, offset_x])
    tensors["mask"][0, 0, 1, 1] = mask
    for tensor in tensors.values():
        tensor.requires_grad_()
    out = reference.deform_conv2d(**tensors)
    out.sum().backward()
    return out.detach()[0, 0], {name: tensor.grad for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "offset", [(-2, 0), (0, -2), (2, 0), (0, 2), (INF, 0), (0, -INF), (1e300, -1e300)]
)
def test_a_sample_outside_is_zero_and_has_no_gradients(offset):
    """Also exactly at -1 and at the size of the image: (1, 1) moved by two."""
    out, grads = one_tap(*offset)
    assert out[1, 1] == 0 and (out.sum() == 16)
    assert (grads["offset"][0, :, 1, 1] == 0).all() and grads["mask"][0, 0, 1, 1] == 0
    assert grads["input"].sum() == 16 and grads["weight"] == 8


def test_just_inside_the_border_has_gradients():
    out, grads = one_tap(-1.75, 0)
    assert out[1, 1] == 0.5  # a quarter of the pixel above, times the weight
    assert grads["offset"][0, :, 1, 1].tolist() == [2, 0]


@pytest.mark.parametrize("offset", [(NAN, 0), (0, NAN), (NAN, NAN), (NAN, INF)])
def test_a_nan_position_is_seen_and_never_scattered(offset):
    out, grads = one_tap(*offset)
    assert out.isnan().sum() == 1 and out[1, 1].isnan()
    assert grads["offset"].isnan().nonzero().tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    assert grads["mask"].isnan().nonzero().tolist() == [[0, 0, 1, 1]]
    assert grads["weight"].isnan().all()
    assert grads["input"].sum() == 16 and grads["input"][0, 0, 1, 1] == 0


def test_a_nan_position_stays_in_its_group():
    case = Case("", c=4, k=4, groups=2, offset_groups=2)
    tensors = case.tensors()
    tensors["offset"][0, 0, 2, 3] = NAN
    nan = run(case, **tensors).isnan().nonzero().tolist()
    assert nan == [[0, 0, 2, 3], [0, 1, 2, 3]]


def test_only_corners_inside_the_image_are_read():
    input = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    input[0, 0, 2, 2] = INF
    offset = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    out = reference.deform_conv2d(input, offset, torch.ones(1, 1, 1, 1, dtype=torch.float64))
    # A corner of weight 0 is read, and 0 * inf is NaN; one outside the image is not.
    expected = torch.tensor([[0, 0, 0], [0, NAN, NAN], [0, NAN, INF]], dtype=torch.float64)
    torch.testing.assert_close(out[0, 0], expected, equal_nan=True)


def test_a_nan_mask_shows_even_outside():
    out, grads = one_tap(10, 0, mask=NAN)
    assert out[1, 1].isnan() and out.isnan().sum() == 1
    assert grads["offset"].isfinite().all() and grads["input"].isfinite().all()


def test_half_pixel_offsets_in_float32_far_from_the_origin():
    """Coordinates above 2048 keep their fraction: a ramp gives back the position it is read at."""
    input = torch.arange(4096.0).reshape(1, 1, 1, -1)
    offset = torch.zeros(1, 2, 1, 4096)
    offset[:, 1] = -0.25
    out = reference.deform_conv2d(input, offset, torch.ones(1, 1, 1, 1))
    assert out[0, 0, 0, 4093] == 4092.75
