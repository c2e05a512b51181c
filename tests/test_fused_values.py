"""The fused forward pass on a GPU: values, for every tile and split that the plan accepts.

Every call writes into memory that held NaN.
"""

import pytest
import torch
from cases import Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    EACH_CASE,
    LAYOUTS,
    choices,
    draw,
    in_layout,
    judge,
    needs_gpu,
    poisoned,
    reference,
    relative_error,
    run,
)
from torch.nn import functional

import dcn

pytestmark = needs_gpu


def test_poisoned_memory_holds_nan():
    with poisoned():
        assert torch.empty(1000, device="cuda").isnan().all()
        assert (torch.empty(1000, dtype=torch.uint8, device="cuda") == 255).all()


@EACH_CASE
@EACH_ARITHMETIC
def test_error_is_at_most_twice_that_of_pytorch(case, kind):
    chosen = choices(case, kind)
    tensors = draw(case, kind)
    truth = reference(case, tensors)
    share_of_allowed = judge(case, kind, tensors, truth)
    bad = []
    for layout in LAYOUTS:
        given = in_layout(tensors, layout)
        # Sizes of 1 leave the input's format open; the output's is then not checked.
        clear = case.c > 1 and max(case.size) > 1
        for tile, split_k in chosen:
            with poisoned():
                out = run(case, kind, given, tile, split_k)
            assert out.dtype == kind.dtype and out.shape == truth.shape
            assert not clear or out.is_contiguous(memory_format=layout)
            share = share_of_allowed(out)
            if not share <= 1:
                bad.append(f"{layout}, tile {tile}, split {split_k}: {share:.3g} of the allowed")
    assert not bad, f"{len(bad)} of {2 * len(chosen)} worse: {bad[:6]}"


@EACH_ARITHMETIC
def test_nothing_comes_between_conversion_and_packing(kind):
    """A kernel that starts beside another may not meet what a third writes late: the poison."""
    case = Case("NCHW", c=64, size=(24, 24), k=100)
    given = in_layout(draw(case, kind), torch.contiguous_format)
    expected = run(case, kind, given)
    for _ in range(300):
        with poisoned():
            out = run(case, kind, given)
        assert torch.equal(out, expected)


@EACH_CASE
@EACH_ARITHMETIC
def test_both_memory_formats_have_the_same_bits(case, kind):
    chosen = choices(case, kind)
    tensors = draw(case, kind)
    for tile, split_k in chosen:
        last, plain = (run(case, kind, in_layout(tensors, form), tile, split_k) for form in LAYOUTS)
        assert torch.equal(last, plain), (tile, split_k)


# Enough outputs for an error in the mean to be a steady figure.
MEASURED = [
    Case("64 channels", c=64, size=(32, 32), k=64),
    Case("256 channels", c=256, size=(20, 25), k=128),
    Case("padded channels", c=20, size=(32, 32), k=64, bias=False),
    Case("one tap", c=64, size=(40, 32), k=64, kernel=(1, 1), padding=(0, 0)),
    Case("three channels", c=3, size=(40, 32), k=64, mask=False),
    Case("groups", c=256, size=(20, 25), k=128, groups=2, offset_groups=2),
    Case("7x7", c=64, size=(20, 25), k=64, kernel=(7, 7), padding=(3, 3)),
]
SIXTEEN_BITS = [kind for kind in ARITHMETICS if not kind.wide]


# Mixed in packed 16-bit arithmetic a value is rounded four times, and its four weights once each:
# on random corners, fractions and masks its error is 1.86 times that of a single rounding. The
# output's own rounding comes to both, so that a result without a bias has 1.5 times the error of
# the one mixed in f32. (A bias hides that: with the benchmark's it is 1.05.)
PACKED = 1.55


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case.name)
@pytest.mark.parametrize("kind", SIXTEEN_BITS, ids=lambda kind: kind.name)
def test_error_of_16_bit_interpolation(case, kind):
    """Against the same call with columns mixed in float32 and then rounded."""
    tensors = draw(case, kind, offset_dtype=torch.float32) | {"bias": None}
    truth = reference(case, tensors)
    with dcn.force_algorithm("im2col_gemm"):
        mixed_in_f32 = dcn.deform_conv2d(**tensors, **case.geometry)
    assert dcn.last_plan().algorithm == "im2col_gemm"
    theirs = relative_error(mixed_in_f32, truth)
    for tile, split_k in choices(case, kind):
        error = relative_error(run(case, kind, tensors, tile, split_k), truth)
        assert error <= PACKED * theirs, (tile, split_k, error / theirs)


@pytest.mark.parametrize("kind", SIXTEEN_BITS, ids=lambda kind: kind.name)
def test_whole_pixels_are_sampled_exactly(kind):
    """One channel picked by a weight of 1: the output is the shifted image, bit by bit."""
    case = Case("", n=2, c=64, size=(12, 19), k=64, kernel=(1, 1), padding=(0, 0), bias=False)
    tensors = draw(case, kind)
    tensors["weight"] = torch.eye(64, device="cuda", dtype=kind.dtype)[:, :, None, None]
    tensors["mask"].fill_(1)
    tensors["offset"][:, 0], tensors["offset"][:, 1] = 2, -3
    expected = torch.zeros_like(tensors["input"])
    expected[:, :, :-2, 3:] = tensors["input"][:, :, 2:, :-3]
    for tile, split_k in choices(case, kind):
        assert torch.equal(run(case, kind, tensors, tile, split_k), expected), (tile, split_k)


# Inputs as networks have them: centred, or rectified by the layer before.
DISTRIBUTIONS = {"normal": lambda x: x, "rectified": lambda x: x.clamp_min(0)}
# The order of summation is luck: cuDNN's differs between shapes, ours between tiles. Over these
# layers a sum in another order has an L2 error within this factor of the same arithmetic's.
LUCK = 1.2


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(
    "c, k, size", [(64, 64, 48), (256, 128, 24), (512, 256, 14), (512, 512, 14)]
)
def test_f32_is_as_accurate_as_a_convolution_of_cudnn(distribution, c, k, size):
    """Zero offsets and no mask sample the pixels themselves, exactly: the operator is then the
    plain convolution, and what is compared is the rounding of one and the same GEMM.
    """
    kind = next(kind for kind in ARITHMETICS if kind.name == "f32")
    case = Case("", n=2, c=c, size=(size, size), k=k, mask=False, bias=False)
    tensors = draw(case, kind)
    tensors["input"] = DISTRIBUTIONS[distribution](torch.randn_like(tensors["input"]))
    tensors["weight"] = torch.randn_like(tensors["weight"]) / (3 * c**0.5)
    tensors["offset"].zero_()
    wide = tensors["input"].double(), tensors["weight"].double()
    truth = functional.conv2d(*wide, padding=1)
    torch.testing.assert_close(reference(case, tensors), truth)  # the same convolution
    # tf32 is off here (conftest.py). Of both memory formats, the less accurate convolution.
    theirs = max(
        relative_error(
            functional.conv2d(
                tensors["input"].contiguous(memory_format=layout),
                tensors["weight"].contiguous(memory_format=layout), padding=1,
            ),
            truth,
        )
        for layout in LAYOUTS
    )  # fmt: skip
    assert theirs < 2**-16, "cuDNN used tf32"
    for tile, split_k in choices(case, kind):
        error = relative_error(run(case, kind, tensors, tile, split_k), truth)
        assert error <= LUCK * theirs, (tile, split_k, error / theirs)
