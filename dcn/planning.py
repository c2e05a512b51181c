"""The plan of a call: which algorithm runs it and how its work is cut, and how to force one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from . import _C

_DTYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _request(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    offset_groups: int = 1,
    pass_: str = "forward",
    dtype: torch.dtype | str = torch.float32,
    device: str = "h200",
    tf32: bool = True,
    deterministic: bool = False,
    channels_last: bool = True,
    output_mask: Sequence[bool] = (True, True, True, True, True),
    im2col_step: int = 0,
) -> _C.PlanRequest:
    if min(*_pair(stride), *_pair(dilation), *weight_shape) < 1:
        raise ValueError(
            "expected positive strides, dilations and weight sizes, but got "
            f"{stride}, {dilation} and {list(weight_shape)}"
        )
    shape = _C.ConvShape()
    shape.N, shape.C, shape.H, shape.W = input_shape
    shape.K, channels_per_group, shape.R, shape.S = weight_shape
    if shape.C % channels_per_group != 0:
        raise ValueError(
            f"expected input channels divisible by weight_shape[1] = {channels_per_group}, "
            f"but got {shape.C}"
        )
    shape.G, shape.D = shape.C // channels_per_group, offset_groups
    shape.stride_h, shape.stride_w = _pair(stride)
    shape.pad_h, shape.pad_w = _pair(padding)
    shape.dil_h, shape.dil_w = _pair(dilation)
    shape.P = _C.output_size(shape.H, shape.R, shape.stride_h, shape.pad_h, shape.dil_h)
    shape.Q = _C.output_size(shape.W, shape.S, shape.stride_w, shape.pad_w, shape.dil_w)
    name = _DTYPES[dtype] if isinstance(dtype, torch.dtype) else dtype
    request = _C.PlanRequest(shape, pass_, name, device)
    request.tf32, request.deterministic = tf32, deterministic
    request.channels_last, request.output_mask = channels_last, list(output_mask)
    request.im2col_step = im2col_step
    return request


def plan(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    algorithm: str | None = None,
    tile: int = -1,
    split_k: int = 0,
    **options,
) -> _C.Plan:
    """The plan for a call, on a device that need not be there.

    Args:
        input_shape: ``[N, C, H, W]``.
        weight_shape: ``[K, C/G, R, S]``.
        algorithm, tile, split_k: forced, as by `force_algorithm`; None: the plan decides.
        options: ``stride``, ``padding``, ``dilation`` (int or pair), ``offset_groups``,
            ``pass_`` (``"forward"`` or ``"backward"``), ``dtype`` (torch's, or ``"bf16"``, ...),
            ``device`` (a preset: ``"cpu"``, ``"h200"``, ``"a100"``, ``"l20"``, ``"rtx4090"``),
            ``tf32``, ``deterministic``, ``channels_last``, ``output_mask`` (which of the gradients
            of input, weight, offset, mask, bias) and ``im2col_step`` (images a chunk; 0: the plan
            decides).

    Returns:
        A value with ``algorithm``, ``chunk_pixels``, ``chunks``, ``lanes``, ``columns_bytes``,
        ``workspace_bytes``, ``accumulator_bytes`` and ``deterministic``; of `fused` also ``tile``,
        ``split_k``, ``merged`` (small convolution groups that run as one) and ``prepacked`` (in
        `last_plan`: the call took a weight that `prepack` had packed).

    Raises:
        ValueError: for a shape that no convolution has, and for an algorithm that cannot serve it.
    """
    request = _request(input_shape, weight_shape, **options)
    if algorithm is not None:
        request.forced = _C.ForcedPlan(algorithm, tile=tile, split_k=split_k)
    return _C.make_plan(request)


def why_not(
    algorithm: str, input_shape: Sequence[int], weight_shape: Sequence[int], **options
) -> str:
    """Why `algorithm` cannot serve a call, as a sentence; empty when it can; options of `plan`."""
    return _C.why_not(algorithm, _request(input_shape, weight_shape, **options))


@contextmanager
def force_algorithm(
    algorithm: str, lanes: int = 0, chunk_pixels: int = 0, tile: int = -1, split_k: int = 0
) -> Iterator[None]:
    """Runs every call of this thread in the scope with `algorithm`, and their backward passes too.

    Args:
        algorithm: ``"im2col_gemm"`` or ``"fused"`` on CUDA, ``"cpu"`` on the CPU. A backward pass
            that `fused` cannot serve follows the plan.
        lanes: of im2col_gemm, chunks in flight, each on a stream of its own; 0: the plan decides.
        chunk_pixels: of im2col_gemm, output pixels a chunk; 0: the plan decides.
        tile: of fused's forward pass, which of its compiled tiles; -1: the plan decides.
        split_k: of fused's forward pass, CTAs that share a tile; 0: the plan decides.

    Raises:
        RuntimeError: from a call that the algorithm cannot serve, with the reason.
    """
    previous = _C.exchange_forced_plan(_C.ForcedPlan(algorithm, lanes, chunk_pixels, tile, split_k))
    try:
        yield
    finally:
        _C.exchange_forced_plan(previous)


def last_plan() -> _C.Plan | None:
    """The plan of the latest call in this process, forward or backward, on any thread."""
    return _C.last_plan()
