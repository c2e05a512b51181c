"""Every algorithm, case and dtype: an error of at most twice that of PyTorch's own operations.

The truth is the reference in float64. No tolerance is chosen: PyTorch's error is measured on the
same values (the larger of two orders of summation), and is at least the rounding of the result.
"""

import pytest
import torch
from cases import ALGORITHMS, CASES, DTYPES, Case
from pytorch_ops import deform_conv2d as pytorch_deform_conv2d
from pytorch_ops import gradients

import dcn


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


def draw(case: Case, dtype: torch.dtype, offset_dtype: torch.dtype, device: str):
    """Leaves and an incoming gradient. Those of f64 are values of f32, see `allowed`."""
    start = torch.float32 if dtype == torch.float64 else dtype
    sampling = torch.float32 if offset_dtype == torch.float64 else offset_dtype
    tensors = case.tensors(start, device, offset_dtype=sampling)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(case.n, case.k, *case.output_size, generator=generator)
    return tensors, grad.to(device, start)


def leaves_of(tensors, dtype=None):
    """Fresh leaves, in `dtype` if one is given."""
    return {
        name: None if value is None else value.detach().to(dtype or value.dtype).requires_grad_()
        for name, value in tensors.items()
    }


def errors(values, truth):
    return {name: (values[name].double() - truth[name]).abs().amax() for name in truth}


def allowed(case, tensors, grad, truth, dtype, tf32=False):
    """Twice PyTorch's error, which counts as half an ulp of the largest value at least.

    There is no better truth for float64: there PyTorch's error is that in float32, scaled, the
    reference's own error makes a third share, and half an ulp each is one ulp for a difference.
    """
    worst = {}
    for flip in (False, True):
        leaves = leaves_of(tensors)
        out = pytorch_deform_conv2d(case, leaves, tf32, flip)
        measured = errors(gradients(out, leaves, grad), truth)
        worst = {name: max(worst.get(name, 0), error.item()) for name, error in measured.items()}
    wide = dtype == torch.float64
    shares, ulps = (3, 1) if wide else (2, 0.5)
    scale = torch.finfo(dtype).eps / torch.finfo(grad.dtype).eps
    ulp = torch.finfo(dtype).eps
    return {
        name: shares * max(scale * error, ulps * ulp * truth[name].abs().amax().item())
        for name, error in worst.items()
    }


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

    leaves = leaves_of(tensors, torch.float64)
    reference_out = dcn.reference.deform_conv2d(**leaves, **case.geometry)
    truth = gradients(reference_out, leaves, grad.double())

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
    bound = allowed(case, tensors, grad, truth, dtype, tf32)
    measured = errors(ours, truth)
    bad = [
        f"{name}: error {measured[name].item():.3g}, allowed {bound[name]:.3g}"
        for name in truth
        if not measured[name].item() <= bound[name]
    ]
    assert not bad, f"{case}: {'; '.join(bad)}"
