"""Every algorithm, case and dtype: an error of at most twice that of PyTorch's own operations.

The truth is the reference in float64. No tolerance is chosen: PyTorch's error is measured, and is
at least the rounding of the result.

The largest error of a tensor is a matter of luck: of the values, of the order of summation, and so
of the BLAS library, the processor and the number of threads. One measurement of PyTorch's is no
yardstick then. Its error is the largest over several draws of values of the case, relative to their
size, and over the orders in which sums are usual: a matrix product's, which BLAS libraries add up
in a few blocks, the same from the other end, and in the wide dtypes one product after another, from
the bias on. That one depends on no library, and is how oneDNN's micro-kernel and a loop of
multiply-adds come to their sums; at 576 products it has twice the error of blocks. In 16 bits sums
are in float32 whatever their order, and the rounding of the columns and the result is the error.
"""

import pytest
import torch
from cases import ALGORITHMS, CASES, DTYPES, LEAVES, Case, named
from pytorch_ops import deform_conv2d as pytorch_deform_conv2d
from pytorch_ops import gradients, one_by_one

import dcn

DRAWS = 3


def runs():
    """(device, algorithm, dtype name): tf32 is a dtype of its own on CUDA."""
    for device, algorithms in ALGORITHMS.items():
        for algorithm in algorithms:
            for dtype in (*DTYPES, *(("tf32",) if device == "cuda" else ())):
                yield pytest.param(device, algorithm, dtype, id=f"{device}-{algorithm}-{dtype}")


@pytest.fixture
def conv_tf32():
    """Sets the convolution's switch for a test; `set(True)` allows tf32."""
    before = torch.backends.cudnn.conv.fp32_precision

    def set(allow: bool) -> None:
        torch.backends.cudnn.conv.fp32_precision = "tf32" if allow else "ieee"

    yield set
    torch.backends.cudnn.conv.fp32_precision = before


def draw(case: Case, dtype: torch.dtype, offset_dtype: torch.dtype, device: str, seed: int = 0):
    """Leaves and an incoming gradient. Those of f64 are values of f32, see `pytorch_error`."""
    start = torch.float32 if dtype == torch.float64 else dtype
    sampling = torch.float32 if offset_dtype == torch.float64 else offset_dtype
    tensors = case.tensors(start, device, offset_dtype=sampling, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    grad = torch.randn(case.n, case.k, *case.output_size, generator=generator)
    return tensors, grad.to(device, start)


def leaves_of(tensors, dtype=None):
    """Fresh leaves, in `dtype` if one is given."""
    return {
        name: None if value is None else value.detach().to(dtype or value.dtype).requires_grad_()
        for name, value in tensors.items()
    }


def truth_of(case: Case, tensors, grad):
    leaves = leaves_of(tensors, torch.float64)
    out = dcn.reference.deform_conv2d(**leaves, **case.geometry)
    return gradients(out, leaves, grad.double())


def largest(values):
    return {name: value.double().abs().amax().item() for name, value in values.items()}


def errors(values, truth):
    return largest({name: values[name].double() - truth[name] for name in truth})


def orders_of_summation(case: Case, dtype: torch.dtype, tf32: bool):
    """PyTorch's operations as functions of the leaves."""
    for flip in (False, True):
        yield lambda leaves, flip=flip: pytorch_deform_conv2d(case, leaves, tf32, flip)
    if dtype.itemsize >= 4 and not tf32:
        yield lambda leaves: one_by_one(case, leaves)


def pytorch_error(case: Case, dtype, offset_dtype, device, tf32):
    """By name, the largest error of any draw and order, relative to the largest value of the draw.

    What float64 is compared with has an error of that size itself. Computed in float64, PyTorch's
    is the distance of two orders of summation, as ours is. The sampling is the same code in both,
    so its error is that in float32, scaled: hence values that are float32's.
    """
    worst = dict.fromkeys(("output", *LEAVES), 0.0)
    for seed in range(DRAWS):
        tensors, grad = draw(case, dtype, offset_dtype, device, seed)
        truth = truth_of(case, tensors, grad)
        scale = largest(truth)
        for computed_in in {dtype, grad.dtype}:
            wide = computed_in == torch.float64
            ulps = torch.finfo(dtype).eps / torch.finfo(computed_in).eps
            for function in orders_of_summation(case, computed_in, tf32):
                leaves = leaves_of(tensors, torch.float64 if wide else None)
                values = gradients(function(leaves), leaves, grad.to(computed_in))
                for name, error in errors(values, truth).items():
                    if scale[name] > 0:
                        worst[name] = max(worst[name], ulps * error / scale[name])
    return worst


def allowed(case: Case, truth, dtype, offset_dtype, device, tf32):
    """Twice PyTorch's error, which counts as half an ulp of the largest value at least; as one in
    float64, where two rounded values are compared.
    """
    theirs = pytorch_error(case, dtype, offset_dtype, device, tf32)
    least = (1 if dtype == torch.float64 else 0.5) * torch.finfo(dtype).eps
    return {name: 2 * max(theirs[name], least) * most for name, most in largest(truth).items()}


def excesses(values, truth, bound) -> list[str]:
    return [
        f"{name}: error {error:.3g}, allowed {bound[name]:.3g}"
        for name, error in errors(values, truth).items()
        if not error <= bound[name]
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("device, algorithm, dtype", list(runs()))
def test_error_is_at_most_twice_that_of_pytorch(case, device, algorithm, dtype, conv_tf32):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    tf32 = dtype == "tf32"
    if device == "cuda":
        conv_tf32(tf32)
    dtype, offset_dtype = DTYPES["f32" if tf32 else dtype]
    tensors, grad = draw(case, dtype, offset_dtype, device)
    truth = truth_of(case, tensors, grad)
    leaves = leaves_of(tensors, torch.float64 if dtype == torch.float64 else None)
    with dcn.force_algorithm(algorithm):
        out = dcn.deform_conv2d(**leaves, **case.geometry)
    ours = gradients(out, leaves, grad.to(dtype))
    assert dcn.last_plan().algorithm == algorithm
    for name, value in ours.items():
        expected_dtype = dtype if name == "output" else leaves[name].dtype
        assert value.dtype == expected_dtype, name
        assert value.shape == truth[name].shape, name
        assert value.isfinite().all(), name

    if case.n == 0:
        for name in ("weight", "bias"):
            assert (ours[name] == 0).all(), name
        return
    bad = excesses(ours, truth, allowed(case, truth, dtype, offset_dtype, device, tf32))
    assert not bad, f"{case}: {'; '.join(bad)}"


def rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In the values alone: the gradient passes."""
    return tensor + (tensor.to(dtype).to(tensor.dtype) - tensor).detach()


BROKEN = {
    "input in bf16": lambda leaves: leaves | {"input": rounded(leaves["input"], torch.bfloat16)},
    "mask in f16": lambda leaves: leaves | {"mask": rounded(leaves["mask"], torch.half)},
    # As far from the origin as the middle of a map of 8 pixels.
    "positions in f16": lambda leaves: (
        leaves | {"offset": rounded(leaves["offset"] + 4, torch.half) - 4}
    ),
}


@pytest.mark.parametrize("case", ["one pixel", "plain", "1 group of 64"])
@pytest.mark.parametrize("broken", BROKEN)
def test_one_rounding_too_many_is_noticed(case, broken):
    case = named(case)
    tensors, grad = draw(case, torch.float32, torch.float32, "cpu")
    truth = truth_of(case, tensors, grad)
    leaves = leaves_of(tensors)
    out = dcn.deform_conv2d(**BROKEN[broken](leaves), **case.geometry)
    bound = allowed(case, truth, torch.float32, torch.float32, "cpu", tf32=False)
    assert excesses(gradients(out, leaves, grad), truth, bound)
