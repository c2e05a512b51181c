"""Recognises the layers of other packages by how they look, without importing these packages."""

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from torch import nn


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def is_ours(layer: nn.Module) -> bool:
    """Whether dcn made the class of this layer, or one that it inherits."""
    package = __name__.partition(".")[0]
    return any(cls.__module__.partition(".")[0] == package for cls in type(layer).__mro__)


# Names in a forward that change no value: ways to reach the operator, and to look at shapes.
_NEUTRAL = words(
    "torch torchvision ops F nn functional apply modulated_deform_conv2d modulated_deform_conv "
    "deform_conv2d deform_conv dcn_v2_conv DCNv2Function ModulatedDeformConv2dFunction "
    "DeformConv2dFunction ModulatedDeformConvFunction DeformConvFunction contiguous size shape "
    "kernel_size im2col_step with_bias"
)
_OTHER_NAMES = {"deform_groups": "deformable_groups"}  # in mmdet 1 and BasicSR


@dataclass(frozen=True)
class Family:
    """A layer of other packages.

    Packages are copied and changed, so the name of a class proves little. A layer is one of a
    family if the instance has all `attributes`, and its `forward` takes `tensors` tensors, uses
    the names that it `needs`, none beyond the known ones, as many arithmetic operators as one of
    the known versions has, and the given `numbers` (None: any).
    """

    name: str
    classes: frozenset[str]
    ours: type[nn.Module]
    tensors: int
    attributes: frozenset[str]
    operators: frozenset[int]
    needs: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    numbers: frozenset[float] | None = None

    def why_not(self, layer: nn.Module) -> str:
        """Why `layer`, whose class has the name, is not of this family; empty if it is."""
        missing = [name for name in self.attributes if not _has(layer, name)]
        if missing:
            return f"it has no {', '.join(sorted(missing))}"
        code = getattr(type(layer).forward, "__code__", None)
        if code is None:
            return "its forward is not a Python function"
        if code.co_argcount - 1 != self.tensors:
            return f"its forward takes {code.co_argcount - 1} tensors, not {self.tensors}"
        names = frozenset(_names(code))
        if not self.needs <= names:
            return f"its forward does not use {', '.join(sorted(self.needs - names))}"
        old_names = {_OTHER_NAMES.get(name, name) for name in self.attributes}
        unknown = names - self.needs - self.may - self.attributes - old_names - _NEUTRAL
        if unknown:
            return f"its forward also uses {', '.join(sorted(unknown))}"
        if self.numbers is not None and frozenset(_numbers(code)) != self.numbers:
            got, known = (sorted(numbers) for numbers in (set(_numbers(code)), self.numbers))
            return f"its forward has the numbers {got}, not {known}"
        count = _operators(code)
        if count not in self.operators:
            known = " or ".join(map(str, sorted(self.operators)))
            return f"its forward has arithmetic operators: {count}, not {known}"
        return ""

    def adopt(self, layer: nn.Module) -> None:
        """Makes `layer` compute by dcn: the same object under our class."""
        for new, old in _OTHER_NAMES.items():
            if new in self.attributes and not hasattr(layer, new):
                setattr(layer, new, getattr(layer, old))
        layer.__class__ = self.ours


def _has(layer: nn.Module, name: str) -> bool:
    """Whether the instance itself has it: what its class has, goes with the class."""
    own = (vars(layer), layer._parameters, layer._modules, layer._buffers)
    return any({name, _OTHER_NAMES.get(name, name)} & held.keys() for held in own)


def _names(code: CodeType) -> Iterator[str]:
    """The globals and attributes that a function uses, also in what it defines inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _numbers(code: CodeType) -> Iterator[float]:
    for instruction in dis.get_instructions(code):
        value = instruction.argval
        if instruction.opname.startswith("LOAD_") and type(value) in (int, float):
            yield value


def _operators(code: CodeType) -> int:
    """How often a function adds, multiplies, negates and so on, also in what it defines inside."""
    count = 0
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        indexing = "SUBSCR" in name or "SLICE" in name or instruction.argrepr == "[]"
        if name.startswith(("BINARY_", "INPLACE_")) and not indexing:
            count += 1
        count += name in ("UNARY_NEGATIVE", "UNARY_INVERT")
    inside = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return count + sum(map(_operators, inside))
