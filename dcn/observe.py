"""Watches a model run: each deformable convolution of it, and the module that ran it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import reference


@dataclass(frozen=True)
class Call:
    """What decides where one deformable convolution samples; letters as in the README."""

    layer: str  # the path of the innermost module that ran it
    size: tuple[int, int]  # H, W
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    offset: Tensor  # [N, 2*D*R*S, P, Q]
    mask: Tensor | None  # [N, D*R*S, P, Q]

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def offset_groups(self) -> int:
        return self.offset.shape[1] // (2 * self.taps)

    @property
    def positions(self) -> tuple[Tensor, Tensor]:
        """y and x of every sample, `[N, D, R*S, P, Q]`, in px of the input, float32 or float64."""
        offset = self.offset if self.offset.dtype == torch.float64 else self.offset.float()
        return reference.positions(
            offset, self.kernel_size, self.stride, self.padding, self.dilation
        )

    @property
    def lengths(self) -> Tensor:
        """How far each sample is moved, `[N, D, R*S, P, Q]`, in px of the input."""
        y, x = self.offset.unflatten(1, (-1, self.taps, 2)).unbind(3)
        return torch.hypot(y.float(), x.float())

    def without_offsets(self) -> Call:
        """The plain convolution of one image."""
        offset = self.offset.new_zeros(1, 2 * self.taps, *self.offset.shape[2:])
        return replace(self, offset=offset, mask=None)


class _Mode(TorchDispatchMode):
    """Sees every call of the operator, below autograd and autocast, whoever makes it."""

    def __init__(self, running: list[str], on_call: Callable[[Call], None]) -> None:
        super().__init__()
        self._running, self._on_call = running, on_call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.dcn.deform_conv2d.default:
            names = (argument.name for argument in func._schema.arguments)
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            self._on_call(
                Call(
                    layer=self._running[-1],
                    size=tuple(given["input"].shape[2:]),
                    kernel_size=tuple(given["weight"].shape[2:]),
                    stride=tuple(given["stride"]),
                    padding=tuple(given["padding"]),
                    dilation=tuple(given["dilation"]),
                    offset=given["offset"].detach(),
                    mask=None if given["mask"] is None else given["mask"].detach(),
                )
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def observe(model: nn.Module, on_call: Callable[[Call], None]) -> Iterator[None]:
    """Calls `on_call` at each deformable convolution that runs in the scope, in order.

    It sees what this thread runs: dcn's modules and `dcn.deform_conv2d` inside any module of
    `model`. Compiled parts run uncompiled meanwhile, so that their modules are seen. Gradients,
    autocast and the results stay as they are.
    """
    running = [type(model).__name__]

    def enter(path: str) -> Callable[..., None]:
        return lambda module, args: running.append(path)

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        running.pop()

    with ExitStack() as stack:
        # Without it PyTorch would never again use what it compiled of a part that ran meanwhile.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, module in model.named_modules():
            path = path.replace("_orig_mod.", "").removesuffix("_orig_mod")
            hooks = (
                module.register_forward_pre_hook(enter(path or running[0])),
                module.register_forward_hook(leave, always_call=True),
            )
            for hook in hooks:
                stack.callback(hook.remove)
        stack.enter_context(_Mode(running, on_call))
        yield


@torch.no_grad()
def run_observed(
    model: nn.Module, args: tuple, kwargs: dict, on_call: Callable[[Call], None]
) -> None:
    """Runs `model(*args, **kwargs)` once under `observe`: in evaluation mode, which is undone."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with observe(model, on_call):
            model(*args, **kwargs)
    finally:
        for module in training:
            module.training = True
