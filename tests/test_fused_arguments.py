"""The fused forward pass with arguments as callers have them: dtypes, strides, views, gradients.

However an argument lies in memory, the output has the same bits.
"""

import pytest
import torch
from cases import Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    FEW,
    LAYOUTS,
    STURDY,
    choices,
    draw,
    in_layout,
    judge,
    needs_gpu,
    poisoned,
    reference,
    run,
)

import dcn

pytestmark = needs_gpu

SIXTEEN_BITS = [kind for kind in ARITHMETICS if not kind.wide]


@pytest.mark.parametrize("kind", SIXTEEN_BITS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("wide", [(), ("offset",), ("mask",), ("offset", "mask")], ids=str)
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_offset_and_mask_of_either_dtype(case, wide, kind):
    chosen = choices(case, kind)
    tensors = draw(case, kind, offset_dtype=torch.float32)
    for name in {"offset", "mask"} - set(wide):
        tensors[name] = tensors[name].to(kind.dtype)
    truth = reference(case, tensors)
    share_of_allowed = judge(case, kind, tensors, truth)
    for tile, split_k in chosen:
        with poisoned():
            out = run(case, kind, tensors, tile, split_k)
        assert out.dtype == kind.dtype
        assert share_of_allowed(out) <= 1, (tile, split_k)


@pytest.mark.parametrize("kind", SIXTEEN_BITS, ids=lambda kind: kind.name)
def test_coordinates_are_f32_beside_16_bits(kind):
    """Positions of 16 bits have no fraction left beyond 2048 (f16) or 256 pixels (bf16)."""
    case = Case("", n=1, c=64, size=(2, 4096), k=64, kernel=(1, 1), padding=(0, 0), bias=False)
    tensors = draw(case, kind, offset_dtype=torch.float32)
    tensors["input"] = torch.arange(4096, device="cuda").remainder(2).to(kind.dtype)
    tensors["input"] = tensors["input"].expand(1, 64, 2, -1)  # 0 1 0 1 ...
    tensors["weight"] = torch.eye(64, device="cuda", dtype=kind.dtype)[:, :, None, None]
    tensors["mask"].fill_(1)
    tensors["offset"].fill_(0)
    tensors["offset"][:, 1] = 0.25
    expected = 0.25 + 0.5 * tensors["input"]
    out = run(case, kind, tensors)
    assert torch.equal(out[..., :-1], expected[..., :-1])


def with_storage_offset(tensor):
    """The same values and strides, one element further in memory: not 16-byte aligned."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    moved = room.as_strided(tensor.shape, tensor.stride(), 1)
    moved.copy_(tensor)
    assert moved.data_ptr() % 16 != 0
    return moved


def spread(tensor):
    """Every second element of a tensor twice as wide, NaN between them."""
    room = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan).to(tensor)
    room[..., ::2] = tensor
    return room[..., ::2]


def among_channels(tensor):
    """A slice of the second dimension of a channels_last tensor, NaN beside it."""
    n, c, *size = tensor.shape
    room = torch.full((n, c + 5, *size), torch.nan).to(tensor)
    room = room.contiguous(memory_format=torch.channels_last)
    room[:, 3 : c + 3] = tensor
    return room[:, 3 : c + 3]


VIEWS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not aligned": with_storage_offset,
    "not aligned, channels_last": lambda x: with_storage_offset(
        x.contiguous(memory_format=torch.channels_last)
    ),
    "every second": spread,
    "among channels": among_channels,
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "flipped rows": lambda x: x.flip(0).contiguous().flip(0),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["input", "weight", "offset", "mask"])
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_any_strides_give_the_same_bits(case, name, view, kind):
    tensors = draw(case, kind)
    viewed = VIEWS[view](tensors[name])
    assert torch.equal(viewed, tensors[name])
    for tile, split_k in choices(case, kind):
        expected = run(case, kind, tensors, tile, split_k)
        with poisoned():
            out = run(case, kind, tensors | {name: viewed}, tile, split_k)
        assert torch.equal(out, expected), (tile, split_k)


@pytest.mark.parametrize("name", ["input", "weight", "offset", "mask"])
@pytest.mark.parametrize("dim", range(4))
@EACH_ARITHMETIC
def test_expanded_arguments_give_the_same_bits(name, dim, kind):
    tensors = draw(STURDY, kind)
    one = tensors[name].narrow(dim, 0, 1)
    viewed = one.expand_as(tensors[name])
    expected = run(STURDY, kind, tensors | {name: viewed.contiguous()})
    assert torch.equal(run(STURDY, kind, tensors | {name: viewed}), expected)


@EACH_ARITHMETIC
def test_a_bias_with_a_stride(kind):
    tensors = draw(STURDY, kind)
    expected = run(STURDY, kind, tensors)
    strided = spread(tensors["bias"])
    assert strided.stride() == (2,)
    moved = with_storage_offset(tensors["bias"])
    for bias in (strided, moved):
        assert torch.equal(run(STURDY, kind, tensors | {"bias": bias}), expected)


@EACH_ARITHMETIC
def test_every_argument_not_aligned_at_once(kind):
    tensors = draw(STURDY, kind)
    moved = {name: with_storage_offset(value) for name, value in tensors.items()}
    for layout in LAYOUTS:
        last = in_layout(tensors, layout)
        moved["input"] = with_storage_offset(last["input"])
        for tile, split_k in choices(STURDY, kind):
            out = run(STURDY, kind, moved, tile, split_k)
            assert torch.equal(out, run(STURDY, kind, last, tile, split_k))
            assert out.is_contiguous(memory_format=layout)


@EACH_ARITHMETIC
def test_inputs_are_not_written(kind):
    tensors = draw(STURDY, kind)
    before = {name: value.clone() for name, value in tensors.items()}
    for tile, split_k in choices(STURDY, kind):
        run(STURDY, kind, tensors, tile, split_k)
    for name, value in tensors.items():
        assert torch.equal(value, before[name]), name


@EACH_ARITHMETIC
def test_a_weight_that_changes_in_place_is_seen(kind):
    """Also through .data, which leaves the version as it was: nothing packed is kept."""
    tensors = draw(STURDY, kind)
    tensors["bias"] = None
    first = run(STURDY, kind, tensors)
    tensors["weight"].data.neg_()
    assert torch.equal(run(STURDY, kind, tensors), -first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_runs_fused(dtype):
    kind = next(kind for kind in ARITHMETICS if kind.name == "f32")
    tensors = draw(STURDY, kind)
    with torch.autocast("cuda", dtype), dcn.force_algorithm("fused"):
        out = dcn.deform_conv2d(**tensors, **STURDY.geometry)
    assert out.dtype == dtype and dcn.last_plan().algorithm == "fused"
    narrow = next(kind for kind in ARITHMETICS if kind.dtype == dtype)
    kept = {"offset": tensors["offset"]}  # an f32 offset stays as it is
    by_hand = {name: value.to(dtype) for name, value in tensors.items()} | kept
    assert torch.equal(out, run(STURDY, narrow, by_hand))
