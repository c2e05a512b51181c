"""Training on a GPU with `fused` and with the reference in its place: the same loss curve."""

import pytest
import torch
import torch.nn.functional as F
from fused_cases import needs_gpu
from test_training import batches
from torch import nn

import dcn
from dcn import reference

pytestmark = needs_gpu

STEPS = 40
CHANNELS = 64  # wide enough for tensor cores


def fused(x, offset, weight, mask):
    with dcn.force_algorithm("fused"):
        return dcn.deform_conv2d(x, offset, weight, padding=1, mask=mask)


def by_reference(x, offset, weight, mask):
    """From the same values in float32, or in float64 if they are."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight = weight.to(x.dtype)
    with torch.autocast("cuda", enabled=False):
        offset, weight, mask = (each.to(wide) for each in (offset, weight, mask))
        out = reference.deform_conv2d(x.to(wide), offset, weight, padding=1, mask=mask)
    return out.to(x.dtype)


class Block(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.conv_offset = nn.Conv2d(CHANNELS, 27, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 3) / (3 * CHANNELS**0.5))
        self.norm = nn.GroupNorm(4, CHANNELS)
        nn.init.normal_(self.conv_offset.weight, std=0.05)

    def forward(self, x):
        offset, logits = self.conv_offset(x).split((18, 9), 1)
        return F.relu(x + self.norm(self.function(x, offset, self.weight, logits.sigmoid())))


def curve(function, dtype: torch.dtype) -> torch.Tensor:
    """Losses of a small network that learns which corner of an image is bright."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1), Block(function), Block(function),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, 4),
    ).to("cuda", torch.float64 if dtype == torch.float64 else torch.float32)  # fmt: skip
    optimizer = torch.optim.SGD(dcn.param_groups(model, lr=0.01), momentum=0.9)
    losses = []
    for x, label in batches(STEPS, "cuda"):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
            loss = F.cross_entropy(model(x.to(dtype if dtype.itemsize > 2 else x.dtype)), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().double())
    return torch.stack(losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loss_curve_is_that_of_the_reference(dtype):
    """Both are a curve of float64 and some rounding, ours at most twice the reference's."""
    exact = curve(by_reference, torch.float64)
    expected, ours = curve(by_reference, dtype), curve(fused, dtype)
    assert exact[-8:].mean() < 0.01 * exact[0]
    assert (ours - exact).abs().mean() < 2 * (expected - exact).abs().mean()
