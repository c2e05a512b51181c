"""Turns the deformable layers of a built model, of whichever package, into dcn's."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from .compat.families import FAMILIES
from .compat.recognition import Family, is_ours


@dataclass(frozen=True)
class ConversionRow:
    """One deformable layer of the model. `why_left` is empty where it was converted."""

    path: str
    layer: str  # its class before
    family: str  # whose layer it was taken for
    becomes: str  # its class now
    why_left: str = ""


@dataclass(frozen=True)
class ConversionReport:
    """The rows in the order of `model.named_modules()`. `str()` is the table."""

    rows: list[ConversionRow]

    @property
    def converted(self) -> list[ConversionRow]:
        return [row for row in self.rows if not row.why_left]

    @property
    def left(self) -> list[ConversionRow]:
        return [row for row in self.rows if row.why_left]

    def __iter__(self) -> Iterator[ConversionRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "dcn.convert found no deformable layer of a known family"
        cells = [
            (row.path or "(the model)", row.layer, f"left: {row.why_left}" if row.why_left else
             f"{row.becomes}  ({row.family})")
            for row in self.rows
        ]  # fmt: skip
        head = ("path", "was", "is")
        widths = [max(len(row[column]) for row in (head, *cells)) for column in (0, 1)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in (head, *cells)]
        return "\n".join([*lines, f"{len(self.converted)} converted, {len(self.left)} left"])


def convert(model: nn.Module) -> ConversionReport:
    """Makes the deformable layers of `model` run on dcn, in place.

    Layers of torchvision, mmcv, mmdet 1, detectron2, CharlesShang's DCNv2, BiRefNet, BasicVSR++,
    ProPainter and EDVR are recognised by their class's name, their attributes and the code of
    their `forward`; the packages need not be installed. Each stays the same object and gets the
    class from `dcn` or `dcn.compat` that computes the same: parameters, hooks, state-dict keys,
    device, dtype, memory format, training flag and `requires_grad` are untouched. `isinstance` with
    the old class no longer holds. Layers that look like one of a family but are not quite are left
    and said. A model that calls torchvision's function itself: see `dcn.patch_torchvision`.

    Args:
        model: any module; it may be a deformable layer itself. Convert before `torch.jit.script`,
            FSDP or parametrizations wrap its layers.

    Returns:
        What was converted, and what was left and why: `print(dcn.convert(model))`.
    """
    rows = []
    for path, layer in model.named_modules():
        known = _named_like(layer)
        if known is None:
            continue
        cls, families = known
        why_left = _wrapped(layer, cls)
        if not why_left:
            reasons = {family: family.why_not(layer) for family in families}
            family = next((one for one, reason in reasons.items() if not reason), None)
            if family is not None:
                was = _name(type(layer))
                family.adopt(layer)
                rows.append(ConversionRow(path, was, family.name, _name(type(layer))))
                continue
            why_left = "; ".join(f"not {one.name}: {reason}" for one, reason in reasons.items())
        rows.append(ConversionRow(path, _name(type(layer)), "", _name(type(layer)), why_left))
    return ConversionReport(rows)


def _named_like(layer: nn.Module) -> tuple[type, list[Family]] | None:
    """The class, of the layer or inherited, that has a known name, unless it is ours."""
    if is_ours(layer):
        return None
    for cls in type(layer).__mro__:
        families = [family for family in FAMILIES if cls.__name__ in family.classes]
        if families:
            return cls, families
    return None


def _wrapped(layer: nn.Module, cls: type) -> str:
    """Why a new class would not do for this instance; empty if it would."""
    if type(layer) is not cls:
        return f"a subclass of {cls.__name__} may compute something else"
    if "forward" in vars(layer):
        return "the instance has a forward of its own, that wraps the class's: convert before"
    return ""


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
