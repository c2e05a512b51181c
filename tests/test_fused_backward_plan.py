"""The plan of the backward pass from Python, without a GPU: memory, determinism, output_mask."""

import itertools

import pytest
from cases import Case
from fused_cases import EACH_ARITHMETIC, FEW, options, shapes
from test_fused_plan import LAYER, case_of

import dcn


def plan(case, kind, **more):
    return dcn.plan(*shapes(case), **options(case, kind), pass_="backward", **more)


def why_not(case, kind, **more) -> str:
    return dcn.why_not("fused", *shapes(case), **options(case, kind), pass_="backward", **more)


@LAYER
@EACH_ARITHMETIC
@pytest.mark.parametrize("deterministic", [False, True])
def test_memory_beyond_inputs_and_outputs_is_bounded(layer, kind, deterministic):
    chosen = plan(case_of(layer), kind, deterministic=deterministic)
    assert chosen.workspace_bytes <= 64 << 20, chosen


@LAYER
@EACH_ARITHMETIC
def test_deterministic_mode_gathers_or_adds_in_fixed_point(layer, kind):
    case = case_of(layer)
    chosen = plan(case, kind, deterministic=True)
    assert chosen.deterministic
    gathers = why_not(case, kind, deterministic=True) == ""
    assert chosen.algorithm == ("fused" if gathers else "im2col_gemm")
    assert ("fixed point" in str(chosen)) == (not gathers)
    assert (chosen.accumulator_bytes == 0) == gathers


@EACH_ARITHMETIC
@pytest.mark.parametrize("deterministic", [False, True])
def test_narrow_convolution_groups_are_merged(deterministic, kind):
    for channels, groups, merged in ((128, 128, 64), (256, 32, 8)):
        case = Case("", n=4, c=channels, size=(64, 64), k=channels, groups=groups)
        assert why_not(case, kind, deterministic=deterministic) == ""
        chosen = plan(case, kind, deterministic=deterministic)
        assert (chosen.algorithm, chosen.merged) == ("fused", merged)
        assert chosen.deterministic and f"{merged} groups as one" in str(chosen)


@EACH_ARITHMETIC
def test_groups_that_do_not_merge_are_not_gathered(kind):
    """Tiles would multiply padding: each group has an offset group of its own."""
    case = Case("", n=4, c=128, size=(64, 64), k=128, groups=128, offset_groups=128)
    assert why_not(case, kind, deterministic=True) == ""
    chosen = plan(case, kind, deterministic=True)
    assert chosen.deterministic and "fixed point" in str(chosen)


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_gradients_that_are_not_asked_for_take_no_memory(case, kind):
    every = plan(case, kind)
    for wanted in itertools.product((False, True), repeat=5):
        chosen = plan(case, kind, output_mask=wanted)
        if chosen.algorithm == every.algorithm:
            assert chosen.workspace_bytes <= every.workspace_bytes, wanted
        if not wanted[0]:
            assert chosen.accumulator_bytes == 0
            assert chosen.deterministic


# What an H200 measured, but in float32, where fused is quicker throughout: small calls last as long
# as their launches, and where channels are many cuBLAS multiplies better. Deterministic mode takes
# fused all the same, where that gathers; narrow offset groups it scatters in no order, but
# im2col_gemm in fixed point.
TAKES_IM2COL = {"seed-small", "rcnn-c5"}


@LAYER
@EACH_ARITHMETIC
def test_the_plan_takes_what_was_quicker(layer, kind):
    case = case_of(layer)
    fused = kind.name == "f32" or layer.name not in TAKES_IM2COL
    assert plan(case, kind).algorithm == ("fused" if fused else "im2col_gemm")
    if why_not(case, kind, deterministic=True) == "":
        assert plan(case, kind, deterministic=True).algorithm == "fused"
