"""Agreement with torchvision on values and on every gradient, away from the one known difference.

That difference is a sample exactly at -1: torchvision gives it a one-sided derivative there.
"""

import pytest
import torch
from cases import CASES, LEAVES, Case, named

import dcn

torchvision = pytest.importorskip("torchvision")


def run(function, case: Case, tensors) -> list[torch.Tensor]:
    leaves = {
        name: None if tensor is None else tensor.detach().clone().requires_grad_()
        for name, tensor in tensors.items()
    }
    out = function(**leaves, **case.geometry)
    out.backward(torch.linspace(-1, 1, out.numel()).to(out).reshape(out.shape))
    return [out.detach(), *(leaves[name].grad for name in LEAVES if leaves[name] is not None)]


def agree(case: Case, tensors, tolerance: float) -> None:
    ours = run(dcn.deform_conv2d, case, tensors)
    theirs = run(torchvision.ops.deform_conv2d, case, tensors)
    for mine, other in zip(ours, theirs, strict=True):
        scale = other.abs().amax().item() if other.numel() else 1
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_in_float64(case, device):
    agree(case, case.tensors(device=device), 1e-12)


@pytest.mark.parametrize(
    "case", [named("1 group of 64"), named("groups"), named("odd map")], ids=lambda c: c.name
)
def test_in_float32(case, device):
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    try:
        agree(case, case.tensors(torch.float32, device), 1e-5)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def test_more_images_than_their_step(device):
    """torchvision walks a batch in steps of up to 32 images, and a prime one image by image."""
    case = Case("", n=37, c=4, size=(5, 4), k=3)
    agree(case, case.tensors(device=device), 1e-12)


def test_samples_far_outside_and_on_pixels(device):
    case = Case("", n=2, c=4, size=(8, 8), k=4)
    tensors = case.tensors(device=device)
    tensors["offset"][:, ::5] += 20
    tensors["offset"][:, 1::5] -= 20
    agree(case, tensors, 1e-12)


def test_the_known_difference_at_minus_one(device):
    """Values agree there; the offset gradient is 0 here, as in the original and in mmcv."""
    case = Case("", n=1, c=1, size=(3, 3), k=1, mask=False, bias=False)
    tensors = case.tensors(device=device)
    tensors["offset"].zero_()
    ours = run(dcn.deform_conv2d, case, tensors)
    theirs = run(torchvision.ops.deform_conv2d, case, tensors)
    torch.testing.assert_close(ours[0], theirs[0])
    at_border = torch.zeros_like(ours[3], dtype=torch.bool).unflatten(1, (3, 3, 2))
    at_border[:, 0, :, :, 0] = True
    at_border[:, :, 0, :, :, 0] = True
    at_border = at_border.flatten(1, 3)
    assert (ours[3][at_border] == 0).all() and (theirs[3][at_border] != 0).any()
    torch.testing.assert_close(ours[3][~at_border], theirs[3][~at_border])
