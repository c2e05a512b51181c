"""NaN, infinite and huge numbers: nothing is repaired in silence, nothing leaks, nothing crashes.

Each test puts the bad number at every position in turn: the batch holds one image a position.
"""

import math

import pytest
import torch
from cases import DTYPES, LEAVES, Case

import dcn

NAN, INF = math.nan, math.inf
HUGE = [INF, -INF, 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**32, 3e9, -3e9, 40000.0, -40000.0]
CALLS = pytest.mark.parametrize("dtype, offset_dtype", list(DTYPES.values()), ids=list(DTYPES))
GEOMETRY = Case(
    "one image", n=1, c=6, size=(3, 4), k=4, kernel=(2, 2), padding=(1, 0), groups=2,
    offset_groups=3,
)  # fmt: skip


def one_image_a_position(name: str, value: float, dtype, offset_dtype, device):
    """The tensors of as many equal images as `name` has positions, with `value` in one each."""
    tensors = GEOMETRY.tensors(dtype, device, offset_dtype=offset_dtype)
    count = tensors[name][0].numel()
    for leaf in ("input", "offset", "mask"):
        tensors[leaf] = tensors[leaf].expand(count, -1, -1, -1).contiguous()
    value = torch.tensor(value, dtype=torch.float64).to(tensors[name].dtype).item()  # inf in f16
    tensors[name].view(count, count).fill_diagonal_(value)
    return tensors


def run(function, tensors, dtype):
    """Output and gradients by name, for an incoming gradient of ones."""
    leaves = {
        name: tensor.detach().to(dtype or tensor.dtype).requires_grad_()
        for name, tensor in tensors.items()
    }
    out = function(**leaves, **GEOMETRY.geometry)
    grads = torch.autograd.grad(out, [leaves[name] for name in LEAVES], torch.ones_like(out))
    return {"output": out.detach()} | dict(zip(LEAVES, grads, strict=True))


def compare(tensors, dtype, skip=()):
    """Where the reference has NaN we have, and nowhere else; wide dtypes agree in value too."""
    ours = run(dcn.deform_conv2d, tensors, None)
    expected = run(dcn.reference.deform_conv2d, tensors, torch.float64)
    for name in expected:
        if name in skip:
            continue
        if dtype in (torch.float64, torch.float32):
            torch.testing.assert_close(
                ours[name].double(), expected[name], rtol=1e-4, atol=1e-4, equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}",
            )  # fmt: skip
        else:
            same = ours[name].isnan() == expected[name].isnan()
            assert same.all(), f"{name}: {(~same).nonzero()[:5].tolist()}"
    return ours


@CALLS
@pytest.mark.parametrize("value", HUGE)
def test_a_sample_far_outside_is_zero(value, dtype, offset_dtype, device):
    tensors = one_image_a_position("offset", value, dtype, offset_dtype, device)
    ours = compare(tensors, dtype)
    for name, tensor in ours.items():
        assert tensor.isfinite().all(), name
    # The moved sample itself has no gradient, neither by y nor by x.
    count = tensors["offset"].shape[0]
    moved = ours["offset"].view(count, count).diagonal()
    assert (moved == 0).all()
    mask = tensors["mask"].clone()
    pairs = mask.view(count, -1)
    per_map = GEOMETRY.output_size[0] * GEOMETRY.output_size[1]
    position = torch.arange(count, device=device)
    sample = position // (2 * per_map) * per_map + position % per_map
    pairs[position, sample] = 0
    plain = {**tensors, "mask": mask, "offset": tensors["offset"].clone()}
    plain["offset"].view(count, count).fill_diagonal_(0.3)
    without = run(dcn.deform_conv2d, plain, None)["output"]
    assert torch.equal(ours["output"], without)


@CALLS
def test_a_nan_offset_shows_where_it_is_used(dtype, offset_dtype, device):
    tensors = one_image_a_position("offset", NAN, dtype, offset_dtype, device)
    ours = compare(tensors, dtype)
    assert ours["input"].isfinite().all()  # nothing is scattered
    assert ours["bias"].isfinite().all()
    assert ours["weight"].isnan().all()
    count = tensors["offset"].shape[0]
    assert ours["offset"].view(count, count).diagonal().isnan().all()
    # One pixel of one image, in the convolution groups that share the offset group's channels.
    assert (ours["output"].isnan().sum((1, 2, 3)) > 0).all()
    assert (ours["output"].isnan().any(1).sum((1, 2)) == 1).all()


@CALLS
def test_nan_beats_infinity(dtype, offset_dtype, device):
    tensors = GEOMETRY.tensors(dtype, device, offset_dtype=offset_dtype)
    tensors["offset"][0, 0, 0, 0], tensors["offset"][0, 1, 0, 0] = NAN, INF
    tensors["offset"][0, 2, 0, 1], tensors["offset"][0, 3, 0, 1] = -INF, NAN
    ours = compare(tensors, dtype)
    assert ours["output"][0, 0, 0, :2].isnan().all()


@CALLS
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_mask_shows_where_it_is_used(value, dtype, offset_dtype, device):
    tensors = one_image_a_position("mask", value, dtype, offset_dtype, device)
    ours = run(dcn.deform_conv2d, tensors, None)
    expected = run(dcn.reference.deform_conv2d, tensors, torch.float64)
    bad, expected_bad = ~ours["output"].isfinite(), ~expected["output"].isfinite()
    assert torch.equal(bad, expected_bad)
    assert (bad.any(1).sum((1, 2)) <= 1).all() and bad.any()
    # The mask's own gradient does not depend on the mask.
    assert ours["mask"].isfinite().all() and ours["bias"].isfinite().all()


@CALLS
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_pixel_reaches_only_samples_that_touch_it(value, dtype, offset_dtype, device):
    """In particular not the samples at or beyond the border, whose reads may be clamped to it."""
    tensors = one_image_a_position("input", value, dtype, offset_dtype, device)
    ours = run(dcn.deform_conv2d, tensors, None)
    expected = run(dcn.reference.deform_conv2d, tensors, torch.float64)
    for name in ("output", "offset", "mask"):
        bad, expected_bad = ~ours[name].isfinite(), ~expected[name].isfinite()
        assert torch.equal(bad, expected_bad), f"{name}: {(bad != expected_bad).sum()} differ"
        assert bad.any(), name
    assert ours["input"].isfinite().all() and ours["bias"].isfinite().all()


@CALLS
def test_bad_pixels_beside_samples_that_are_all_outside(dtype, offset_dtype, device):
    tensors = GEOMETRY.tensors(dtype, device, offset_dtype=offset_dtype)
    tensors["input"].fill_(NAN)
    tensors["offset"].fill_(100)
    ours = run(dcn.deform_conv2d, tensors, None)
    assert torch.equal(
        ours["output"],
        tensors["bias"].detach()[:, None, None].expand_as(ours["output"]),
    )
    for name in ("weight", "offset", "mask", "input"):
        assert (ours[name] == 0).all(), name


@CALLS
def test_a_bad_image_does_not_reach_its_neighbours(dtype, offset_dtype, device):
    case = Case("", n=3, c=8, k=5)
    clean = case.tensors(dtype, device, offset_dtype=offset_dtype)
    broken = {name: tensor.clone() for name, tensor in clean.items()}
    broken["input"][1], broken["offset"][1], broken["mask"][1] = INF, NAN, NAN
    expected = dcn.deform_conv2d(**clean, **case.geometry)
    out = dcn.deform_conv2d(**broken, **case.geometry)
    assert torch.equal(out[::2], expected[::2]) and out[1].isnan().all()


@CALLS
def test_a_bad_weight_and_bias(dtype, offset_dtype, device):
    tensors = GEOMETRY.tensors(dtype, device, offset_dtype=offset_dtype)
    tensors["weight"][1, 0, 0, 0], tensors["bias"][3] = NAN, INF
    out = dcn.deform_conv2d(**tensors, **GEOMETRY.geometry)
    assert out[:, 1].isnan().all() and (out[:, 3] == INF).all() and out[:, [0, 2]].isfinite().all()
