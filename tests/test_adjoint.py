"""Adjoint identities in float64 at real sizes.

For fixed offsets the operator is linear in the input, in the weight and in the mask. So for any
incoming gradient g and any other x', <g, f(x')> = <grad_x, x'>: no reference needed, no size too
large, and an index that is wrong in one pass alone breaks it.
"""

import pytest
import torch
from cases import Case

import dcn
from dcn.layers import LAYERS

CPU_CASES = [
    Case("detector", n=2, c=128, size=(25, 42), k=128),
    Case("video", n=1, c=64, size=(45, 80), k=64, offset_groups=16),
    Case("large kernel", n=1, c=64, size=(32, 31), k=48, kernel=(7, 7), padding=(3, 3)),
    Case("stride", n=3, c=64, size=(65, 48), k=96, stride=(2, 2), groups=4, offset_groups=2),
    Case("dilation", n=2, c=60, size=(40, 33), k=36, dilation=(2, 3), padding=(2, 3), groups=3),
]
CUDA_CASES = [
    Case(
        layer.name, n=layer.N, c=layer.C, size=(layer.H, layer.W), k=layer.K,
        kernel=(layer.k,) * 2, stride=(layer.stride,) * 2, padding=(layer.pad,) * 2,
        dilation=(layer.dilation,) * 2, groups=layer.groups, offset_groups=layer.offset_groups,
    )
    for layer in LAYERS
]  # fmt: skip


def draw(case: Case, device: str) -> dict[str, torch.Tensor]:
    """Offsets of two pixels on average; one sample of a hundred is far away."""
    generator = torch.Generator(device).manual_seed(2)
    taps = case.offset_groups * case.kernel[0] * case.kernel[1]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=device)

    offset = normal(case.n, 2 * taps, *case.output_size) * 2
    offset[torch.rand(offset.shape, generator=generator, device=device) < 0.01] *= 100
    return {
        "input": normal(case.n, case.c, *case.size),
        "weight": normal(case.k, case.c // case.groups, *case.kernel),
        "mask": normal(case.n, taps, *case.output_size),
        "offset": offset,
    }


@pytest.mark.parametrize(
    "case, device",
    [(case, "cpu") for case in CPU_CASES] + [(case, "cuda") for case in CPU_CASES + CUDA_CASES],
    ids=lambda value: getattr(value, "name", value),
)
def test_gradients_are_the_adjoints_of_the_forward(case, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    tensors = draw(case, device)
    linear = ("input", "weight", "mask")
    for name in linear:
        tensors[name].requires_grad_()
    out = dcn.deform_conv2d(**tensors, **case.geometry)
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, [tensors[name] for name in linear], grad)
    for name, adjoint in zip(linear, grads, strict=True):
        other = torch.randn_like(tensors[name])
        with torch.no_grad():
            moved = dcn.deform_conv2d(**(tensors | {name: other}), **case.geometry)
        forward, backward = (grad * moved).sum(), (adjoint * other).sum()
        # Rounding of a dot product, thousands of times below what one float32 inside would leave.
        assert abs(forward - backward) <= 1e-12 * grad.norm() * moved.norm(), f"{name}: {case}"
        assert adjoint.norm() > 0 and moved.norm() > 0
