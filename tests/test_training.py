"""Habits of training: 16 bits, recomputation, sharding, and a whole step compiled."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dcn


class Backbone(nn.Module):
    """A stem and deformable residual blocks, small, with what backbones have around them."""

    def __init__(self, depth: int = 3, checkpointed: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(8, 1 + i % 2) for i in range(depth))
        self.head = nn.Linear(32, 4)
        self.checkpointed = checkpointed

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Block(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = dcn.ModulatedDeformConv2dPack(
            channels, channels, 3, stride, padding=1, offset_groups=2, mask_scale=2
        )
        self.norm = nn.GroupNorm(2, channels)
        self.stride = stride

    def forward(self, x):
        return F.relu(x[..., :: self.stride, :: self.stride] + self.norm(self.conv(x)))


def backbone(device: str = "cpu", **options) -> Backbone:
    torch.manual_seed(0)
    made = Backbone(**options)
    for block in made.blocks:
        nn.init.normal_(block.conv.conv_offset.weight, std=0.1)
    return made.to(device)


def batches(steps: int, device: str = "cpu") -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose class is the corner that is bright."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        label = torch.randint(0, 4, (8,), generator=generator)
        x = torch.rand(8, 3, 12, 12, generator=generator)
        for image, corner in zip(x, label, strict=True):
            rows, columns = (
                slice(0, 6) if bit == 0 else slice(6, 12) for bit in divmod(int(corner), 2)
            )
            image[:, rows, columns] += 1
        found.append((x.to(device), label.to(device)))
    return found


def train(model, steps: int, device: str, dtype: torch.dtype | None = None) -> list[float]:
    optimizer = torch.optim.AdamW(dcn.param_groups(model, lr=2e-2))
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    losses = []
    for x, label in batches(steps, device):
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(x), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_training_in_16_bits_follows_that_in_32(dtype, device):
    exact, mixed = (train(backbone(device), 40, device, one) for one in (None, dtype))
    last, lowered = (sum(losses[-8:]) / 8 for losses in (exact, mixed))
    assert max(last, lowered) < 0.05 * exact[0]
    assert abs(mixed[0] - exact[0]) < 0.01 * exact[0]


def step(model, device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    ((x, label),) = batches(1, device)
    loss = F.cross_entropy(model(x), label)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_checkpointed_step_is_the_plain_one(dtype, device):
    with torch.autocast(device, dtype, enabled=dtype is not None):
        plain = step(backbone(device), device)
        again = step(backbone(device, checkpointed=True), device)
    if device == "cpu":  # the input gradient of CUDA is a sum in any order
        assert all(map(torch.equal, plain[1], again[1])) and torch.equal(plain[0], again[0])
    else:
        torch.testing.assert_close(again, plain, rtol=1e-2, atol=1e-3)


def test_checkpointing_saves_no_activations_of_a_block(device):
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    def kept(**options) -> int:
        saved.clear()
        model = backbone(device, **options)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(batches(1, device)[0][0])
        return sum(saved)

    assert kept(checkpointed=True) < kept() / 3


def test_a_compiled_training_step_is_that_of_eager_mode(device):
    """Forward and backward as one graph each, and the optimizer's update compiled beside them.

    In float64, where two orders of a sum stay close over several steps.
    """
    if device == "cpu" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    torch._dynamo.reset()

    def trained(compiled: bool) -> list[torch.Tensor]:
        model = backbone(device, depth=2).double()
        optimizer = torch.optim.SGD(dcn.param_groups(model, lr=0.1), momentum=0.9)

        def loss_of(x, label):
            return F.cross_entropy(model(x), label)

        forward = torch.compile(loss_of, fullgraph=True) if compiled else loss_of

        def step(x, label):
            optimizer.zero_grad()
            loss = forward(x, label)
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = torch.compile(step) if compiled else step
        losses = [run(x.double(), label) for x, label in batches(4, device)]
        return losses + [parameter.detach() for parameter in model.parameters()]

    torch.testing.assert_close(trained(True), trained(False))
