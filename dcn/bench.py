"""Timing and inputs that the command line and the scripts in `bench/` share.

A GPU is timed with device events, the L2 flushed before each call, for so long that the host has
queued the whole call when the GPU gets to it; a CPU with the wall clock. A figure is the lowest of
the medians of a few repeats, in which the competitors take turns: what disturbs a machine for a
second then disturbs all of them, and cuDNN, whose choice of algorithm varies from run to run, is
given its best one.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .functional import deform_conv2d
from .layers import Layer
from .reference import positions

REPEATS = 5
# Bytes written before each timed call: more than any L2, and so often that an H200 takes 0.3 ms. A
# host takes 0.1 to 0.2 ms to queue a backward call, of a convolution too, and a slow one longer:
# then they are written oftener. If the GPU waited, a layer of less would show the host's time.
_FLUSH_BYTES, _FLUSHES, _FLUSHES_MS = 256 << 20, 4, 0.3
_flush: dict[torch.device, Tensor] = {}

DTYPES = {
    "f32": torch.float32,
    "tf32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


def set_precision(dtype: str) -> None:
    """Allows TF32 for `"tf32"`, refuses it for `"f32"`: in convolutions and matrix products."""
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"


@dataclass
class Inputs:
    """One layer's tensors: offsets N(0, sigma^2) px, mask sigmoid(N(0, 1)), outputs near 1."""

    layer: Layer
    input: Tensor
    weight: Tensor
    offset: Tensor
    mask: Tensor | None
    bias: Tensor
    grad: Tensor

    def forward(self) -> Tensor:
        layer = self.layer
        return deform_conv2d(
            self.input, self.offset, self.weight, self.bias,
            layer.stride, layer.pad, layer.dilation, self.mask,
        )  # fmt: skip

    def prepacked(self) -> Callable[[], Tensor]:
        """`forward` with the weight packed now."""
        layer = self.layer
        packed = torch.ops.dcn.pack_weight(self.weight.detach(), layer.groups, layer.offset_groups)
        geometry = ((number, number) for number in (layer.stride, layer.pad, layer.dilation))
        arguments = (
            self.input, self.weight, self.offset, self.mask, self.bias, *geometry,
            layer.groups, layer.offset_groups, 0, packed,
        )  # fmt: skip
        return lambda: torch.ops.dcn.deform_conv2d(*arguments)

    def convolution(self) -> Tensor:
        layer = self.layer
        return F.conv2d(
            self.input, self.weight, self.bias,
            layer.stride, layer.pad, layer.dilation, layer.groups,
        )  # fmt: skip

    def torchvision(self) -> Tensor:
        from torchvision.ops import deform_conv2d as theirs

        layer = self.layer
        return theirs(
            self.input, self.offset, self.weight, self.bias,
            layer.stride, layer.pad, layer.dilation, self.mask,
        )  # fmt: skip

    def leaves(self, deformable: bool) -> list[Tensor]:
        """What gradients are asked for: all inputs, or those of the plain convolution; none of what
        is frozen."""
        sampling = [self.offset] + ([self.mask] if self.mask is not None else [])
        every = [self.input, self.weight, self.bias] + (sampling if deformable else [])
        return [tensor for tensor in every if tensor.requires_grad]


def make_inputs(
    layer: Layer,
    dtype: torch.dtype,
    device: str | torch.device,
    layout: torch.memory_format = torch.channels_last,
    sigma: float = 1.0,
    seed: int = 0,
    clustered: bool = False,
    frozen: Collection[str] = (),
) -> Inputs:
    """`clustered`: offsets by which all samples of an image lie within 1 px of its middle;
    `frozen`: tensors without gradients, by name."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    def output_size(size: int) -> int:
        return (size + 2 * layer.pad - layer.dilation * (layer.k - 1) - 1) // layer.stride + 1

    p, q = output_size(layer.H), output_size(layer.W)
    taps, per_group = layer.k * layer.k, layer.C // layer.groups
    offset = normal(layer.N, 2 * layer.offset_groups * taps, p, q) * sigma
    if clustered:
        kernel_size, middle = (layer.k, layer.k), (layer.H // 2, layer.W // 2)
        geometry = (layer.stride, layer.pad, layer.dilation)
        offset = clustered_offsets(offset.tanh(), kernel_size, *geometry, middle)
    mask = normal(layer.N, layer.offset_groups * taps, p, q).sigmoid() if layer.mask else None
    weight = normal(layer.K, per_group, layer.k, layer.k) / (per_group * taps) ** 0.5
    tensors = {
        "input": normal(layer.N, layer.C, layer.H, layer.W).to(dtype, memory_format=layout),
        "weight": weight.to(dtype, memory_format=layout),
        "offset": offset.to(dtype),
        "mask": None if mask is None else mask.to(dtype),
        "bias": normal(layer.K).to(dtype),
    }
    for name, tensor in tensors.items():
        if tensor is not None:
            tensor.requires_grad_(name not in frozen)
    grad = normal(layer.N, layer.K, p, q).to(dtype, memory_format=layout)
    return Inputs(layer=layer, grad=grad, **tensors)


def clustered_offsets(
    distance: Tensor,
    kernel_size: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    pixel: tuple[int, int],
) -> Tensor:
    """Offsets by which all samples lie around one pixel, `distance` (shaped as they) from it."""
    y, x = positions(torch.zeros_like(distance), kernel_size, stride, padding, dilation)
    return distance + torch.stack((pixel[0] - y, pixel[1] - x), 3).flatten(1, 3)


def backward_of(forward: Callable[[], Tensor], leaves: list[Tensor], grad: Tensor):
    """A callable that runs the backward pass alone, any number of times, on one forward's graph."""
    output = forward()
    return lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True)


def in_deterministic_mode(run: Callable[[], object]) -> Callable[[], object]:
    """`run` under `torch.use_deterministic_algorithms`, without the filling of memory, which is for
    finding bugs."""

    def deterministic() -> object:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            return run()
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = True
            torch.use_deterministic_algorithms(False)

    return deterministic


def competitors(data: Inputs, torchvision: bool, backward: bool) -> dict[str, Callable[[], object]]:
    """What to time of one layer and pass: `dcn`, the plain `conv`, `torchvision` if asked for."""
    runs = {"dcn": (data.forward, True), "conv": (data.convolution, False)}
    if torchvision:
        runs["torchvision"] = (data.torchvision, True)
    if not backward:
        return {name: torch.no_grad()(forward) for name, (forward, _) in runs.items()}
    return {
        name: backward_of(forward, data.leaves(deformable), data.grad)
        for name, (forward, deformable) in runs.items()
    }


def _median_gpu(run: Callable[[], object], device: torch.device, budget_ms: float) -> float:
    if device not in _flush:
        with torch.inference_mode(False):  # it outlives the caller's mode
            _flush[device] = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
    flush = _flush[device]
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began = time.perf_counter()
    start.record()
    run()
    end.record()
    queued_ms = (time.perf_counter() - began) * 1e3
    torch.cuda.synchronize(device)
    flushes = _FLUSHES * max(1, math.ceil(1.5 * queued_ms / _FLUSHES_MS))
    count = max(5, min(60, int(budget_ms / max(start.elapsed_time(end) + 0.1, 0.01))))
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(count)
    ]
    for start, end in pairs:
        for _ in range(flushes):
            flush.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in pairs)


def _median_cpu(run: Callable[[], object], budget_ms: float) -> float:
    times: list[float] = []
    while not times or (sum(times) < budget_ms and len(times) < 50):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def best_of_interleaved(
    runs: dict[str, Callable[[], object]],
    device: str | torch.device,
    repeats: int = REPEATS,
    budget_ms: float = 30.0,
) -> dict[str, float]:
    """Milliseconds of each callable: the lowest median of the rounds in which they take turns.

    Args:
        runs: what to time, by name. Each is called twice to warm up.
        device: where they run.
        repeats: rounds.
        budget_ms: timed milliseconds a callable and round; at least five calls on a GPU, one on
            a CPU.
    """
    device = torch.device(device)
    for run in runs.values():
        run()
        run()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            if device.type == "cuda":
                median = _median_gpu(run, device, budget_ms)
            else:
                median = _median_cpu(run, budget_ms)
            best[name] = min(best[name], median)
    return best


def graph_replay(run: Callable[[], object]) -> Callable[[], None]:
    """`run` captured as a CUDA graph: so timed, a small layer shows its kernels, not launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def extra_memory_mib(run: Callable[[], object], device: str | torch.device) -> float:
    """Peak of device memory during `run` beyond what was there before, in MiB, results included."""
    run()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    del result
    return (peak - before) / 2**20
