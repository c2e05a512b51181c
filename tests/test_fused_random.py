"""Shapes that nobody chose: 300 seeded ones against the reference, over all dtypes and tiles."""

import math
import random

import pytest
import torch
from cases import Case
from fused_cases import (
    ARITHMETICS,
    LAYOUTS,
    choices,
    draw,
    in_layout,
    judge,
    needs_gpu,
    poisoned,
    reference,
    run,
    tf32_as,
    why_not_fused,
)

import dcn

pytestmark = needs_gpu

SHAPES, SHAPES_A_TEST = 300, 10
MOST_COLUMNS = 3 << 20  # values, so that 300 references take seconds


def random_case(rng: random.Random) -> Case:
    """Any legal shape; every second one has offset groups of 64 channels or more."""
    while True:
        groups = rng.choice((1, 1, 1, 2, 3, 4, 8))
        offset_groups = rng.choice((1, 1, 1, 2, 3, 4))
        unit = math.lcm(groups, offset_groups)
        least = 64 * offset_groups if rng.random() < 0.5 else 1
        multiples = range(math.ceil(least / unit), max(400, least + 200) // unit + 1)
        kernel = rng.choice(
            ((1, 1), (3, 3), (3, 3), (3, 3), (2, 3), (5, 1), (1, 4), (4, 4), (7, 7))
        )
        case = Case(
            "random",
            n=rng.choice((1, 1, 2, 3, 5, 11)),
            c=unit * rng.choice(multiples),
            size=(rng.randint(1, 40), rng.randint(1, 40)),
            k=groups * rng.randint(1, 300 // groups),
            kernel=kernel,
            stride=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 3))),
            padding=(rng.randint(0, 4), rng.randint(0, 4)),
            dilation=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))),
            groups=groups,
            offset_groups=offset_groups,
            mask=rng.random() < 0.7,
            bias=rng.random() < 0.7,
        )
        spans = zip(case.size, case.kernel, case.padding, case.dilation, strict=True)
        if any(h + 2 * pad < dil * (r - 1) + 1 for h, r, pad, dil in spans):
            continue
        taps, pixels = math.prod(kernel), case.n * math.prod(case.output_size)
        if case.c * taps * pixels <= MOST_COLUMNS:
            return case


def draw_randomly(rng: random.Random, case: Case, kind, **more):
    """Offsets of a random spread, some of them far outside; some dtypes and formats."""
    wide = rng.random() < 0.5
    tensors = draw(case, kind, offset_dtype=torch.float32 if wide else None, **more)
    tensors["offset"] = tensors["offset"] * rng.choice((0, 0.1, 1, 1, 3))
    if rng.random() < 0.3:
        far = torch.rand(tensors["offset"].shape, device="cuda") < 0.1
        tensors["offset"] = tensors["offset"].masked_fill(far, rng.choice((-1e4, 1e4, 500)))
    return in_layout(tensors, rng.choice(LAYOUTS))


@pytest.mark.parametrize("first", range(0, SHAPES, SHAPES_A_TEST))
def test_random_shapes(first):
    bad = []
    for seed in range(first, first + SHAPES_A_TEST):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        kind = ARITHMETICS[seed % len(ARITHMETICS)]
        case = random_case(rng)
        tensors = draw_randomly(rng, case, kind)
        legal = why_not_fused(case, kind) == ""
        forced = rng.choice(choices(case, kind)) if legal and rng.random() < 0.8 else None
        with poisoned(), tf32_as(kind):
            if forced:
                out = run(case, kind, tensors, *forced)
            else:
                out = dcn.deform_conv2d(**tensors, **case.geometry)
        if forced or not legal or case.groups == 1:
            assert dcn.last_plan().algorithm == ("fused" if legal else "im2col_gemm")
        truth = reference(case, tensors)
        share = judge(case, kind, tensors, truth)(out)
        if not share <= 1:
            bad.append(f"seed {seed}, {kind.name}, tile and split {forced}: {share:.3g}, {case}")
    assert not bad, "\n".join(bad)


def test_the_draw_reaches_what_it_should():
    """Without this the shapes could all be of one kind, and nobody would see it."""
    drawn = [random_case(random.Random(seed)) for seed in range(SHAPES)]
    kinds = [ARITHMETICS[seed % len(ARITHMETICS)] for seed in range(SHAPES)]
    fused = [c for c, kind in zip(drawn, kinds, strict=True) if why_not_fused(c, kind) == ""]
    assert len(fused) > 0.7 * SHAPES
    for some in (
        [c for c in fused if c.offset_groups > 1],
        [c for c in fused if c.groups > 1],
        [c for c in fused if c.groups > 1 and c.offset_groups > 1],
        [c for c in fused if math.prod(c.kernel) > 9],
        [c for c in fused if c.c % 8 != 0],
        [c for c in fused if c.k % 64 != 0 and c.k > 64],
        [c for c in fused if math.prod(c.output_size) < 16],
        [c for c in fused if c.n * math.prod(c.output_size) > 1000],
    ):
        assert len(some) >= 10
