"""The operator as a `torch.autograd.Function`, for code that calls `.apply`."""

from typing import Any

import torch
from torch import Tensor

from . import (
    _C,
    _ops,  # noqa: F401  (registers torch.ops.dcn)
)


class DeformConv2dFunction(torch.autograd.Function):
    """`DeformConv2dFunction.apply(input, weight, offset, mask, bias, stride, padding, dilation,
    groups, offset_groups)`: the arguments of `torch.ops.dcn.deform_conv2d`, in its order.

    `dcn.deform_conv2d` gives the same values and gradients and has less overhead.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return torch.ops.dcn.deform_conv2d(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.geometry = inputs[5:]
        # Backward may run on a thread of the autograd engine, where this thread's scope is unknown.
        ctx.forced_plan = _C.forced_plan()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, offset, mask = ctx.saved_tensors
        # Autocast works below this function: what was saved has the dtypes from before it.
        previous = _C.exchange_forced_plan(ctx.forced_plan)
        try:
            gradients = torch.ops.dcn.deform_conv2d_backward(
                grad, input.to(grad.dtype), weight.to(grad.dtype), offset, mask, *ctx.geometry[:5],
                list(ctx.needs_input_grad[:5]), *ctx.geometry[5:],
            )  # fmt: skip
        finally:
            _C.exchange_forced_plan(previous)
        asked = zip(gradients, ctx.needs_input_grad, strict=False)
        return (*(g if needed else None for g, needed in asked), *(None,) * len(ctx.geometry))
