"""Gradients are derivatives: torch's gradcheck, all samples 0.1 px away from the kinks."""

import pytest
import torch
from cases import Case

import dcn

CASES = [
    Case("plain", n=2, c=3, size=(4, 3), k=2),
    Case("v1", n=1, c=2, size=(3, 4), k=2, mask=False, bias=False),
    Case("stride", n=1, c=2, size=(6, 5), k=2, stride=(2, 3), padding=(1, 0)),
    Case("dilation", n=1, c=2, size=(4, 5), k=2, dilation=(2, 1), padding=(2, 1)),
    Case("1x1", n=2, c=3, size=(3, 3), k=2, kernel=(1, 1), padding=(0, 0)),
    Case("2x3", n=1, c=2, size=(3, 4), k=3, kernel=(2, 3), padding=(0, 1)),
    Case("groups", n=1, c=4, size=(3, 3), k=4, groups=2, offset_groups=2),
    Case("groups across offset groups", n=1, c=6, size=(3, 2), k=4, groups=2, offset_groups=3),
]


def leaves_of(case: Case, device: str) -> dict[str, torch.Tensor]:
    tensors = case.tensors(device=device, requires_grad=True)
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def check(case: Case, leaves, varied, device) -> None:
    fixed = {name: leaf.detach() for name, leaf in leaves.items() if name not in varied}

    def function(*values):
        tensors = fixed | dict(zip(varied, values, strict=True))
        return dcn.deform_conv2d(**tensors, **case.geometry)

    # On CUDA the input gradient is a sum in no fixed order.
    nondeterminism = 1e-13 if device == "cuda" else 0.0
    values = tuple(leaves[name] for name in varied)
    assert torch.autograd.gradcheck(function, values, nondet_tol=nondeterminism), case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_offset_gradient(case, device):
    check(case, leaves_of(case, device), ["offset"], device)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_gradients_together(case, device):
    leaves = leaves_of(case, device)
    check(case, leaves, list(leaves), device)


def test_offsets_that_leave_the_image(device):
    """Samples far outside have a zero derivative, those between the border and one pixel not."""
    case = Case("", n=1, c=2, size=(3, 3), k=2)
    leaves = leaves_of(case, device)
    with torch.no_grad():
        leaves["offset"][:, ::3] += 7
        leaves["offset"][:, 1::3] -= 6
    check(case, leaves, ["offset", "mask", "input"], device)
