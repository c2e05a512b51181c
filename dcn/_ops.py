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
from . import _C, planning  # noqa: E402  (links the library that has just been found)

version: str = _build.version
if not _build.cuda_version:
    for _name in ("dcn::deform_conv2d", "dcn::deform_conv2d_backward", "dcn::pack_weight"):
        torch.library.impl(_name, "cuda", without_cuda)

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MOST = 2**31 - 1


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


def _dtype_name(tensor: Tensor) -> str:
    """As C++ prints it: Float for float32."""
    return tensor.type().split(".")[-1].removesuffix("Tensor")


def _check_dtype(name: str, tensor: Tensor, input: Tensor, or_f32: bool = False) -> None:
    or_f32 = or_f32 and input.dtype.itemsize == 2
    torch._check(
        tensor.dtype == input.dtype or (or_f32 and tensor.dtype == torch.float32),
        lambda: (
            f"deform_conv2d: expected {name} of dtype {_dtype_name(input)} like the input"
            f"{' or Float' if or_f32 else ''}, but got {_dtype_name(tensor)}"
        ),
    )


def _check_shape(
    name: str, layout: str, tensor: Tensor, expected: Sequence[int], phrases: bool = False
) -> None:
    def message(axis: int) -> str:
        got, want = tuple(tensor.shape), tuple(expected)
        text = f"deform_conv2d: expected {name} of shape {layout} = {list(want)}, but got "
        phrase = (
            f" (invalid batch size of {name})",
            f" ({name}.shape[1] is not valid: got: {got[axis]} expected: {want[axis]})",
            f" ({name} output dims: {got[2:]} - computed output dims: {want[2:]})",
        )[min(axis, 2)]
        return text + str(list(got)) + (phrase if phrases else "")

    for axis, want in enumerate(expected):
        torch._check(tensor.shape[axis] == want, partial(message, axis))


def _check_numbers(
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
    im2col_step: int,
) -> None:
    torch._check(
        len(stride) == len(padding) == len(dilation) == 2,
        lambda: (
            "deform_conv2d: expected stride, padding and dilation of 2 values each, but got "
            f"{list(stride)}, {list(padding)} and {list(dilation)}"
        ),
    )
    channels = (
        "the shape of the offset tensor at dimension 1 is not valid. It should be a multiple of "
        "2 * weight.size[2] * weight.size[3]"
    )
    for what, least, values, got in (
        ("a positive kernel size", 1, weight.shape[2:], "weight_h: {} weight_w: {}"),
        ("positive strides", 1, stride, "stride_h: {} stride_w: {}"),
        ("non-negative padding", 0, padding, "pad_h: {} pad_w: {}"),
        ("positive dilations", 1, dilation, "dilation_h: {} dilation_w: {}"),
        ("a positive number of groups", 1, (groups,), "{}"),
        ("a positive number of offset groups", 1, (offset_groups,), "{}: " + channels),
        ("a non-negative im2col_step", 0, (im2col_step,), "{}"),
    ):
        message = f"deform_conv2d: expected {what}, but got {got.format(*values)}"
        for value in values:
            torch._check(value >= least, lambda message=message: message)


def _check_limit(name: str, value: int) -> None:
    # A symbol is not compared: the limit would become a guard, which an export without an upper
    # bound of that size refuses. The real kernels check the number that it stands for.
    if isinstance(value, int):
        message = f"{name} of {value} is too large: sizes are limited to 2^31 - 1"
        torch._check(value <= _MOST, lambda: f"deform_conv2d: {message}")


def _output_size(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    (h, w), (r, s) = input.shape[2:], weight.shape[2:]
    p = (h + 2 * padding[0] - dilation[0] * (r - 1) - 1) // stride[0] + 1
    q = (w + 2 * padding[1] - dilation[1] * (s - 1) - 1) // stride[1] + 1
    for extent in (p, q):
        torch._check(
            extent > 0,
            lambda: (
                f"deform_conv2d: Calculated output size too small - out_h: {max(p, 0)} "
                f"out_w: {max(q, 0)} for an input of {h} x {w}, a kernel of {r} x {s}, "
                f"padding {list(padding)}, dilation {list(dilation)}"
            ),
        )
    _check_limit("an output height", p)
    _check_limit("an output width", q)
    return p, q


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


def _check_fits_int32(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output_size: tuple[int, int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """`ConvShape::fits_int32`, as far as sizes are numbers (see `_check_limit`)."""
    (_, c, h, w), (k, per_group, r, s), (p, q) = input.shape, weight.shape, output_size
    counts = (h * w * c, p * q * k, offset.shape[1] * p * q, k * per_group * r * s)
    reach = (
        extent * stride[i] + padding[i] + weight.shape[i + 2] * dilation[i]
        for i, extent in enumerate(output_size)
    )
    for value, most in (
        *((each, _MOST) for each in counts),
        *((each, 2**24 - 1) for each in reach),
    ):
        torch._check(
            not isinstance(value, int) or value <= most,
            lambda: (
                "deform_conv2d: one image of the input, output or offset, or the weight, has 2^31 "
                "or more elements, or spans 2^24 or more pixels along an axis: input "
                f"{list(input.shape)}, weight {list(weight.shape)}, offset {list(offset.shape)}"
            ),
        )


def _check_call(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
    im2col_step: int,
) -> tuple[int, int]:
    """`csrc/check.cpp` for sizes that may be symbols; the output's height and width."""
    tensors = {"input": input, "weight": weight, "offset": offset, "mask": mask, "bias": bias}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, 1 if name == "bias" else 4, input.device)
    torch._check(
        input.dtype in _DTYPES,
        lambda: (
            "deform_conv2d: expected an input of dtype Double, Float, Half or BFloat16, but got "
            + _dtype_name(input)
        ),
    )
    for name, tensor in tensors.items():
        _check_dtype(name, tensor, input, or_f32=name in ("offset", "mask"))
    _check_numbers(weight, stride, padding, dilation, groups, offset_groups, im2col_step)
    sizes = ("a batch", "a channel count", "an input height", "an input width")
    kernel = ("an output channel count", "a kernel height", "a kernel width")
    named = (
        *zip(sizes, input.shape, strict=True),
        *zip(kernel, (weight.shape[0], *weight.shape[2:]), strict=True),
        ("a number of groups", groups),
        ("a number of offset groups", offset_groups),
        *(("a stride", value) for value in stride),
        *(("a padding", value) for value in padding),
        *(("a dilation", value) for value in dilation),
    )
    for name, value in named:
        _check_limit(name, value)
    p, q = _output_size(input, weight, stride, padding, dilation)
    _check_channels(input, weight, groups, offset_groups)
    n, samples = input.shape[0], offset_groups * weight.shape[2] * weight.shape[3]
    _check_shape("offset", "[N, 2*D*R*S, P, Q]", offset, (n, 2 * samples, p, q), phrases=True)
    if mask is not None:
        _check_shape("mask", "[N, D*R*S, P, Q]", mask, (n, samples, p, q), phrases=True)
    if bias is not None:
        _check_shape("bias", "[K]", bias, (weight.shape[0],))
    _check_fits_int32(input, weight, offset, (p, q), stride, padding, dilation)
    return p, q


@torch.library.register_fake("dcn::deform_conv2d")
def _fake_forward(
    input, weight, offset, mask, bias, stride, padding, dilation, groups, offset_groups,
    im2col_step=0, packed_weight=None,
):  # fmt: skip
    p, q = _check_call(
        input, weight, offset, mask, bias,
        stride, padding, dilation, groups, offset_groups, im2col_step,
    )  # fmt: skip
    return torch.empty(
        (input.shape[0], weight.shape[0], p, q),
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
        input, weight, offset, mask, None,
        stride, padding, dilation, groups, offset_groups, im2col_step,
    )  # fmt: skip
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


@torch.library.register_fake("dcn::pack_weight")
def _fake_pack_weight(weight, groups, offset_groups):
    _, per_group, *kernel_size = weight.shape
    request = planning._request(
        (1, per_group * groups, *kernel_size),
        weight.shape,
        offset_groups=offset_groups,
        dtype=weight.dtype,
        device="h200" if weight.is_cuda else "cpu",
        tf32=torch.backends.cudnn.conv.fp32_precision == "tf32",
    )
    reason = _C.why_not_packed(request)
    if reason:
        raise NotImplementedError(f"pack_weight: {reason}")
    return weight.new_empty(_C.packed_sizes(request))
