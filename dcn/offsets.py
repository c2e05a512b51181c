"""What a model's offsets do: a table for a look, and a warning for a training run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import reference
from .observe import Call, observe, run_observed


@dataclass(frozen=True)
class LayerOffsets:
    """One layer's row; lengths in px of the layer's input, shares of all its samples in 0..1."""

    layer: str
    calls: int
    size: tuple[int, int]  # H, W of the input, at the latest call
    mean: float  # |offset|, the length of (dy, dx), over the finite ones; NaN if there are none
    largest: float  # likewise
    outside: float  # beyond (-1, H) x (-1, W), so 0
    outside_before: float  # the same without offsets: what the padding makes
    not_finite: float
    mask_mean: float | None  # None: a layer without a mask

    @property
    def remark(self) -> str:
        """What is wrong with this row; empty when nothing is."""
        height, width = self.size
        if self.not_finite > 0:
            return "NaN or infinite offsets"
        if self.largest > max(height, width):
            return f"reaches beyond its {height} x {width} map"
        if self.outside > self.outside_before + 0.1:
            return "many samples were moved outside"
        if self.largest == 0:
            return "every offset is 0"
        return ""


@dataclass(frozen=True)
class OffsetStats:
    """The rows in order of execution. `str()` is the table; `stats["path.of.layer"]` is a row."""

    rows: list[LayerOffsets]

    def __iter__(self) -> Iterator[LayerOffsets]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, layer: str) -> LayerOffsets:
        for row in self.rows:
            if row.layer == layer:
                return row
        raise KeyError(f"no row {layer!r} among {', '.join(row.layer for row in self.rows)}")

    def __str__(self) -> str:
        if not self.rows:
            return "no deformable convolution of dcn ran"
        width = max(len(row.layer) for row in self.rows)
        lines = [
            f"{'layer':{width}} {'mean |offset|':>14} {'largest':>9} {'outside':>8} "
            f"{'before':>7} {'mask':>6}"
        ]
        for row in self.rows:
            mask = "-" if row.mask_mean is None else f"{row.mask_mean:.2f}"
            lines.append(
                f"{row.layer:{width}} {row.mean:11.3g} px {row.largest:6.3g} px {row.outside:8.1%} "
                f"{row.outside_before:7.1%} {mask:>6}  {row.remark}".rstrip()
            )
        return "\n".join(lines)


class _Sums:
    """Sums of a layer's calls. They stay on its device until `row` waits for them."""

    def __init__(self) -> None:
        self.calls, self.samples, self.size, self.masked = 0, 0, (0, 0), False
        self.sums: Tensor | float = 0.0
        self.largest: Tensor | None = None

    def add(self, call: Call) -> None:
        (y, x), lengths = call.positions, call.lengths
        self.calls, self.size, self.masked = self.calls + 1, call.size, call.mask is not None
        self.samples += lengths.numel()
        if lengths.numel() == 0:
            return
        finite = lengths.isfinite()
        lengths = torch.where(finite, lengths, 0)
        outside = ~reference.inside(y, x, call.size) & ~(y.isnan() | x.isnan())
        before = ~reference.inside(*call.without_offsets().positions, call.size)
        sums = [
            finite.sum(),
            lengths.sum(dtype=torch.float64),
            outside.sum(),
            before.double().mean() * lengths.numel(),
            call.mask.sum(dtype=torch.float64) if self.masked else lengths.new_zeros(()),
        ]
        self.sums = self.sums + torch.stack([one.double() for one in sums])
        largest = lengths.amax()
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)

    def row(self, layer: str) -> LayerOffsets:
        seen = self.largest is not None
        finite, length, outside, before, mask = self.sums.tolist() if seen else [0.0] * 5
        samples, unknown = max(self.samples, 1), float("nan")
        return LayerOffsets(
            layer=layer,
            calls=self.calls,
            size=self.size,
            mean=length / finite if finite else unknown,
            largest=self.largest.item() if finite else unknown,
            outside=outside / samples,
            outside_before=before / samples,
            not_finite=(self.samples - finite) / samples,
            mask_mean=mask / samples if self.masked else None,
        )


class Tally:
    """Takes calls one by one, and keeps sums alone."""

    def __init__(self) -> None:
        self._layers: dict[str, _Sums] = {}

    def add(self, call: Call) -> None:
        self._layers.setdefault(call.layer, _Sums()).add(call)

    def stats(self) -> OffsetStats:
        return OffsetStats([sums.row(layer) for layer, sums in self._layers.items()])


def offset_stats(model: nn.Module, *args: object, **kwargs: object) -> OffsetStats:
    """Runs `model(*args, **kwargs)` once and says what the offsets of each layer did.

    Every deformable convolution of dcn that runs is seen: modules of any kind, and
    `dcn.deform_conv2d` under the name of the module that calls it. A layer that runs several
    times is one row. The model runs in evaluation mode without gradients; its mode is restored.

    Args:
        model: any module, also one wrapped by `torch.compile` (it then runs uncompiled) or DDP.
        args, kwargs: what the model takes: a batch, say.

    Returns:
        The table: `print(dcn.offset_stats(model, batch))`. A remark stands behind rows that show
        NaN, reach beyond the map, left the image (what the padding makes is counted apart), or
        have no offsets at all.
    """
    tally = Tally()
    run_observed(model, args, kwargs, tally.add)
    return tally.stats()


class OffsetWatch:
    """What `warn_offsets` returns: `remove()` ends the watch, and so does leaving a `with`."""

    def __init__(self, model: nn.Module, limit: float, every: int) -> None:
        self._limit, self._every = limit, every
        self._runs = 0
        self._largest: dict[str, Tensor] = {}
        self._observing: ExitStack | None = None
        self._hooks = (
            model.register_forward_pre_hook(self._before),
            model.register_forward_hook(self._after, always_call=True),
        )

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> OffsetWatch:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    @torch.compiler.disable
    def _before(self, model: nn.Module, args: tuple) -> None:
        if self._runs % self._every == 0:
            self._largest.clear()
            self._observing = ExitStack()
            self._observing.enter_context(observe(model, self._see))
        self._runs += 1

    def _see(self, call: Call) -> None:
        if call.offset.numel() > 0:
            largest = call.lengths.amax()  # NaN if one is NaN
            previous = self._largest.get(call.layer, largest)
            self._largest[call.layer] = torch.maximum(previous, largest)

    @torch.compiler.disable
    def _after(self, model: nn.Module, args: tuple, output: object) -> None:
        if self._observing is None:
            return
        self._observing.close()
        self._observing = None
        largest = {layer: value.item() for layer, value in self._largest.items()}
        self._largest.clear()
        beyond = [
            f"{name} {value:.3g} px" for name, value in largest.items() if not value <= self._limit
        ]
        if beyond:
            warnings.warn(
                f"dcn: offsets beyond the limit of {self._limit:g} px in forward pass "
                f"{self._runs}: {', '.join(beyond)}",
                stacklevel=2,
            )


def warn_offsets(model: nn.Module, limit: float, every: int = 100) -> OffsetWatch:
    """Warns (`UserWarning`) while `model` trains or runs, when an offset grows beyond a limit.

    One forward pass in `every`, the first included, is watched: it runs uncompiled, reads each
    offset tensor once more, and waits for the device at its end. The other passes cost a counter
    and never wait. `warnings.filterwarnings("error", message="dcn: offsets")` stops a run instead.

    Args:
        model: the module whose forward passes count. Of a compiled model take what `torch.compile`
            returned: hooks on a module inside of it keep it from being compiled.
        limit: the largest |offset| that is fine, in px of a layer's input. NaN is beyond any.
        every: 1 watches every pass.

    Returns:
        A handle with `remove()`, which is also a context manager.

    Raises:
        ValueError: a limit that is not positive, or `every` below 1.
    """
    if not limit > 0 or every < 1:
        raise ValueError(
            f"warn_offsets: expected a limit above 0 px and every >= 1, but got {limit} and {every}"
        )
    return OffsetWatch(model, limit, every)
