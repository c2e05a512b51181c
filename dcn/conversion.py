"""Turns the deformable layers of a built model, of whichever package, into dcn's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from .compat.families import FAMILIES, Family, is_ours


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


def convert(
    model: nn.Module, same: Mapping[type[nn.Module], type[nn.Module]] | None = None
) -> ConversionReport:
    """Makes the deformable layers of `model` run on dcn, in place.

    Layers of torchvision, mmcv, mmdet 1, detectron2, CharlesShang's DCNv2, BiRefNet, BasicVSR++,
    ProPainter and EDVR are known by the names of their class and of the package or file that
    defines it; the packages need not be installed. Each stays the same object and gets the class
    from `dcn` or `dcn.compat` that computes the same: parameters, hooks, state-dict keys, device,
    dtype, memory format, training flag and `requires_grad` are untouched. `isinstance` with the old
    class no longer holds. A class of such a name from elsewhere may be a changed copy, so its
    layers are left and said. A model that calls torchvision's function itself: see
    `dcn.patch_torchvision`.

    Args:
        model: any module; it may be a deformable layer itself. Convert before `torch.jit.script`,
            FSDP or parametrizations wrap its layers.
        same: your copies of such classes, and what computes the same:
            `{MyDCN: dcn.compat.dcnv2.DCN}`. Their instances must have the attributes of the
            original; nothing can check what they compute.

    Returns:
        What was converted, and what was left and why: `print(dcn.convert(model))`.

    Raises:
        ValueError: `same` names a class that layers are not converted to.
    """
    copies = {cls: _family_of(ours) for cls, ours in (same or {}).items()}
    rows = []
    for path, layer in model.named_modules():
        was = type(layer)
        family = copies.get(was) or next((one for one in FAMILIES if one.defines(was)), None)
        why_left = _why_left(layer, family)
        if why_left is None:
            continue
        if family is None or why_left:
            rows.append(ConversionRow(path, _name(was), "", _name(was), why_left))
            continue
        family.adopt(layer)
        rows.append(ConversionRow(path, _name(was), family.name, _name(type(layer))))
    return ConversionReport(rows)


def _family_of(ours: type[nn.Module]) -> Family:
    for family in FAMILIES:
        if family.ours is ours:
            return family
    known = ", ".join(dict.fromkeys(_name(family.ours) for family in FAMILIES))
    raise ValueError(f"convert: expected one of {known}, but got {_name(ours)}")


def _why_left(layer: nn.Module, family: Family | None) -> str | None:
    """Empty if the layer can be converted, None if it does not look deformable at all."""
    if family is None:
        return None if is_ours(layer) else _why_unknown(type(layer))
    if "forward" in vars(layer):
        return "the instance has a forward of its own, that wraps the class's: convert before"
    missing = family.missing(layer)
    return f"it has no {', '.join(missing)}, unlike {family.name}" if missing else ""


def _why_unknown(cls: type) -> str | None:
    for base in cls.__mro__:
        named_alike = [family for family in FAMILIES if base.__name__ in family.classes]
        if not named_alike:
            continue
        if base is not cls:
            return f"a subclass of {base.__name__} may compute something else"
        sources = " or ".join(sorted(frozenset().union(*(one.sources for one in named_alike))))
        ours = " or ".join(dict.fromkeys(_name(one.ours) for one in named_alike))
        return (
            f"it may differ from the one of {sources}; if not: convert(model, "
            f"{{{cls.__name__}: {ours}}})"
        )
    return None


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
