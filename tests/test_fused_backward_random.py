"""The backward pass of `fused` on shapes that nobody chose: 300 seeded ones, over all dtypes."""

import math
import random

import pytest
import torch
from cases import LEAVES
from fused_cases import ARITHMETICS, needs_gpu, poisoned, tf32_as
from fused_gradients import (
    Allowance,
    given,
    gradient_of_output,
    leftovers,
    run_backward,
    whole_1024ths,
    why_not_backward,
)
from test_fused_random import SHAPES, SHAPES_A_TEST, draw_randomly, random_case

import dcn

pytestmark = needs_gpu


def random_names(rng: random.Random, tensors) -> tuple[str, ...]:
    """Mostly all gradients, otherwise some of them."""
    names = given(tensors)
    if rng.random() < 0.6:
        return names
    return tuple(name for name in names if rng.random() < 0.5) or ("input",)


def unforced(case, kind, tensors, grad, names):
    wanted = [name in names for name in LEAVES]
    with tf32_as(kind):
        values = torch.ops.dcn.deform_conv2d_backward(
            *case.backward_arguments(grad, tensors), wanted
        )
    return {name: value for name, value in zip(LEAVES, values, strict=True) if name in names}


@pytest.mark.parametrize("first", range(0, SHAPES, SHAPES_A_TEST))
def test_random_shapes(first):
    bad = []
    for seed in range(first, first + SHAPES_A_TEST):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        kind = ARITHMETICS[seed % len(ARITHMETICS)]
        case = random_case(rng)
        state = rng.getstate()

        def drawn(again: int, case=case, kind=kind, state=state):
            same = random.Random()
            same.setstate(state)
            tensors = draw_randomly(same, case, kind, seed=again)
            tensors["offset"] = whole_1024ths(tensors["offset"])
            return tensors, gradient_of_output(case, kind, again)

        allowance = Allowance(case, kind, drawn)
        names = random_names(rng, allowance.tensors)
        run = run_backward if rng.random() < 0.7 else unforced
        with rng.choice((poisoned, leftovers))():
            values = run(case, kind, allowance.tensors, allowance.grad, names)
        if found := allowance.excesses(values):
            bad.append(f"seed {seed}, {kind.name}, {dcn.last_plan()}, {case}: {found}")
    assert not bad, "\n".join(bad)


def test_the_draw_reaches_what_it_should():
    """Once fused has a backward pass, which many of the shapes must be for."""
    drawn = [random_case(random.Random(seed)) for seed in range(SHAPES)]
    kinds = [ARITHMETICS[seed % len(ARITHMETICS)] for seed in range(SHAPES)]
    reasons = [why_not_backward(c, kind) for c, kind in zip(drawn, kinds, strict=True)]
    if all("no backward pass" in reason for reason in reasons):
        pytest.skip("fused has no backward pass")
    fused = [case for case, reason in zip(drawn, reasons, strict=True) if not reason]
    assert len(fused) > 0.4 * SHAPES
    for some in (
        [c for c in fused if c.offset_groups > 1],
        [c for c in fused if c.groups > 1],
        [c for c in fused if math.prod(c.kernel) > 9],
        [c for c in fused if c.c % 8 != 0],
        [c for c in fused if c.k % 64 != 0 and c.k > 64],
        [c for c in fused if math.prod(c.stride) > 1],
        [c for c in fused if math.prod(c.output_size) < 16],
        [c for c in fused if c.n * math.prod(c.output_size) > 1000],
    ):
        assert len(some) >= 10
