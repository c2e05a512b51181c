"""torchvision's deformable convolution, run by dcn."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from . import _ops  # noqa: F401  (registers torch.ops.dcn)

_lock = threading.Lock()
_open_patches = 0


def patch_torchvision() -> TorchvisionPatch:
    """Runs `torchvision.ops.deform_conv2d` and `DeformConv2d` on dcn, from here on.

    However a model imported them, before or after: what is replaced is the one operator that both
    end in. A model that keeps its own layer around torchvision's function needs no other change.
    Modules, weights and state dicts are untouched. Values and gradients are torchvision's, except
    where dcn differs (README: positions in float32, the border at exactly -1, bfloat16).

    `torch.compile` recompiles; exported programs and TorchScript made before stay what they are.

    Returns:
        A handle: `undo()` ends the patch, and so does leaving a `with dcn.patch_torchvision():`.
        Patches may overlap; the last to end restores torchvision.

    Raises:
        ImportError: torchvision is not installed.
    """
    import torchvision  # noqa: F401  (registers torch.ops.torchvision)

    return TorchvisionPatch()


class TorchvisionPatch:
    """What `patch_torchvision` returns."""

    def __init__(self) -> None:
        global _open_patches
        self._open = True
        with _lock:
            if _open_patches == 0:
                namespace = torch.ops.torchvision
                namespace.deform_conv2d = _Redirected(namespace.deform_conv2d)
            _open_patches += 1

    def undo(self) -> None:
        """Ends this patch; a second call does nothing."""
        global _open_patches
        with _lock:
            if not self._open:
                return
            self._open = False
            _open_patches -= 1
            if _open_patches == 0:
                namespace = torch.ops.torchvision
                namespace.deform_conv2d = namespace.deform_conv2d.operator

    def __enter__(self) -> TorchvisionPatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


class _Redirected:
    """Stands in for torchvision's operator: a call runs dcn's.

    Whoever looks up its overloads, as exporters do, finds torchvision's own.
    """

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operator, name)

    def __call__(
        self,
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor,
        bias: Tensor,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        offset_groups: int,
        use_mask: bool,
    ) -> Tensor:
        """The schema of `torchvision::deform_conv2d`, whose mask is a dummy unless it is used."""
        return torch.ops.dcn.deform_conv2d(
            input,
            weight,
            offset,
            mask if use_mask else None,
            bias,
            (stride_h, stride_w),
            (pad_h, pad_w),
            (dilation_h, dilation_w),
            groups,
            offset_groups,
        )
