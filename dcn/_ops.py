"""Loads `libdcn.so`, which registers `torch.ops.dcn.*`, and gives the operators fake kernels.

Fake kernels stand in for the real ones where only shapes matter (`torch.compile`, `torch.export`,
meta tensors). They refuse what the real ones refuse, so that a bad call fails while it is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

_LIBRARY = Path(__file__).parent / "lib" / "libdcn.so"
_REBUILD = "pip install --no-build-isolation --no-deps --force-reinstall ."


def mismatch(built_torch: str, built_cuda: str, torch_version: str, torch_cuda: str | None) -> str:
    """Why a library built against one torch cannot serve another; empty where it can."""
    if built_torch.split(".")[:2] != torch_version.split(".")[:2]:
        return (
            f"dcn was built against torch {built_torch} but torch {torch_version} is installed: "
            f"rebuild it in its source folder with `{_REBUILD}`"
        )
    if built_cuda and built_cuda.split(".")[0] != (torch_cuda or "").split(".")[0]:
        installed = f"CUDA {torch_cuda}" if torch_cuda else "no CUDA"
        return (
            f"dcn was built with CUDA {built_cuda} but the installed torch {torch_version} has "
            f"{installed}: rebuild it in its source folder with `{_REBUILD}`"
        )
    return ""


def _load() -> ModuleType:
    """The stamp that the build left beside the library."""
    try:
        from . import _build
    except ImportError:
        _build = None
    if _build is None or not _LIBRARY.is_file():
        raise ImportError(
            f"dcn has no compiled library at {_LIBRARY}: run "
            "`pip install --no-build-isolation -e .` in this source folder or, if dcn is installed "
            "already, start Python in another folder"
        )
    # A library of another torch may load and crash later, so the versions are compared first.
    sentence = mismatch(
        _build.torch_version, _build.cuda_version, torch.__version__, torch.version.cuda
    )
    if sentence:
        raise ImportError(sentence)
    try:
        torch.ops.load_library(_LIBRARY)
    except OSError as error:
        raise ImportError(
            f"{_LIBRARY} does not load ({error}): rebuild it in its source folder with `{_REBUILD}`"
        ) from error
    return _build


def without_cuda(*args: object) -> None:
    """Stands in for the CUDA kernels of a build that has none; the dispatcher's text is pages."""
    raise NotImplementedError(
        "deform_conv2d: this copy of dcn was built without CUDA kernels: with nvcc on the PATH, "
        f"rebuild it in its source folder with `{_REBUILD}`"
    )


_build = _load()
version: str = _build.version
if not _build.cuda_version:
    for _name in ("dcn::deform_conv2d", "dcn::deform_conv2d_backward"):
        torch.library.impl(_name, "cuda", without_cuda)

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _check_tensor(name: str, tensor: Tensor, rank: int, device: torch.device) -> None:
    torch._check(
        tensor.dim() == rank,
        lambda: (
            f"deform_conv2d: expected {name} with {rank} dimensions, but got "
            f"{tensor.dim()} dimensions, shape {list(tensor.shape)}"
        ),
    )
    torch._check(
        tensor.device == device,
        lambda: (
            f"deform_conv2d: expected all tensors on the input's device {device}, but {name} "
            f"is on {tensor.device}"
        ),
    )


def _check_dtype(name: str, tensor: Tensor, input: Tensor, or_f32: bool = False) -> None:
    or_f32 = or_f32 and input.dtype.itemsize == 2
    torch._check(
        tensor.dtype == input.dtype or (or_f32 and tensor.dtype == torch.float32),
        lambda: (
            f"deform_conv2d: expected {name} of dtype {input.dtype} like the input"
            f"{' or torch.float32' if or_f32 else ''}, but got {tensor.dtype}"
        ),
    )


def _check_shape(name: str, layout: str, tensor: Tensor, expected: Sequence[int]) -> None:
    def message(axis: int) -> str:
        got, want = tuple(tensor.shape), tuple(expected)
        phrases = (
            f"invalid batch size of {name}",
            f"{name}.shape[1] is not valid: got: {got[axis]} expected: {want[axis]}",
            f"{name} output dims: {got[2:]} - computed output dims: {want[2:]}",
        )
        return (
            f"deform_conv2d: expected {name} of shape {layout} = {list(want)}, but got "
            f"{list(got)} ({phrases[min(axis, 2)]})"
        )

    for axis, want in enumerate(expected):
        torch._check(tensor.shape[axis] == want, partial(message, axis))


def _check_numbers(
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> None:
    for name, values, least in (
        ("kernel size", weight.shape[2:], 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
        ("groups", (groups,), 1),
        ("offset groups", (offset_groups,), 1),
    ):
        for value in values:
            message = f"deform_conv2d: expected {name} of at least {least}, but got {list(values)}"
            torch._check(value >= least, lambda message=message: message)


def _check_channels(input: Tensor, weight: Tensor, groups: int, offset_groups: int) -> None:
    c, k = input.shape[1], weight.shape[0]
    torch._check(
        c > 0 and k > 0,
        lambda: (
            "deform_conv2d: expected at least one input and one output channel, but got "
            f"{c} and {k}"
        ),
    )
    torch._check(
        c % groups == 0 and k % groups == 0,
        lambda: (
            f"deform_conv2d: input channels ({c}) and output channels ({k}) must be divisible "
            f"by groups ({groups})"
        ),
    )
    torch._check(
        c % offset_groups == 0,
        lambda: (
            f"deform_conv2d: input channels ({c}) must be divisible by offset groups "
            f"({offset_groups})"
        ),
    )
    _check_shape("weight", "[K, C/G, R, S]", weight, (k, c // groups, *weight.shape[2:]))


def _check_call(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> tuple[int, int]:
    """`csrc/check.cpp` for sizes that may be symbols; the output's height and width."""
    for name, tensor in (("input", input), ("weight", weight), ("offset", offset), ("mask", mask)):
        if tensor is not None:
            _check_tensor(name, tensor, 4, input.device)
            _check_dtype(name, tensor, input, or_f32=name in ("offset", "mask"))
    torch._check(
        input.dtype in _DTYPES,
        lambda: (
            f"deform_conv2d: expected an input of one of the dtypes {_DTYPES}, "
            f"but got {input.dtype}"
        ),
    )
    _check_numbers(weight, stride, padding, dilation, groups, offset_groups)
    p, q = (
        (input.shape[i + 2] + 2 * padding[i] - dilation[i] * (weight.shape[i + 2] - 1) - 1)
        // stride[i]
        + 1
        for i in range(2)
    )
    for extent in (p, q):
        torch._check(
            extent > 0,
            lambda: (
                "deform_conv2d: Calculated output size too small - "
                f"out_h: {p} out_w: {q} for an input of {list(input.shape[2:])}"
            ),
        )
    _check_channels(input, weight, groups, offset_groups)
    n, samples = input.shape[0], offset_groups * weight.shape[2] * weight.shape[3]
    _check_shape("offset", "[N, 2*D*R*S, P, Q]", offset, (n, 2 * samples, p, q))
    if mask is not None:
        _check_shape("mask", "[N, D*R*S, P, Q]", mask, (n, samples, p, q))
    return p, q


@torch.library.register_fake("dcn::deform_conv2d")
def _fake_forward(
    input, weight, offset, mask, bias, stride, padding, dilation, groups, offset_groups,
    im2col_step=0,
):  # fmt: skip
    p, q = _check_call(
        input, weight, offset, mask, stride, padding, dilation, groups, offset_groups
    )
    n, k = input.shape[0], weight.shape[0]
    if bias is not None:
        _check_tensor("bias", bias, 1, input.device)
        _check_dtype("bias", bias, input)
        _check_shape("bias", "[K]", bias, (k,))
    return torch.empty(
        (n, k, p, q),
        dtype=input.dtype,
        device=input.device,
        memory_format=suggest_memory_format(input),
    )


@torch.library.register_fake("dcn::deform_conv2d_backward")
def _fake_backward(
    grad, input, weight, offset, mask, stride, padding, dilation, groups, offset_groups,
    output_mask, im2col_step=0,
):  # fmt: skip
    p, q = _check_call(
        input, weight, offset, mask, stride, padding, dilation, groups, offset_groups
    )
    _check_tensor("grad", grad, 4, input.device)
    _check_dtype("grad", grad, input)
    _check_shape("grad", "[N, K, P, Q]", grad, (input.shape[0], weight.shape[0], p, q))

    def gradient(i: int, tensor: Tensor | None, form: torch.memory_format) -> Tensor:
        if tensor is None or not output_mask[i]:
            return input.new_empty(0)
        return torch.empty_like(tensor, memory_format=form)

    return (
        gradient(0, input, suggest_memory_format(input)),
        gradient(1, weight, suggest_memory_format(weight)),
        gradient(2, offset, torch.contiguous_format),
        gradient(3, mask, torch.contiguous_format),
        input.new_empty(weight.shape[0] if output_mask[4] else 0),
    )
