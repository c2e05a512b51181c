"""The backward pass of `fused` on a GPU: every gradient against the reference's in float64.

Every call writes into memory that held NaN.
"""

import pytest
import torch
from cases import LEAVES, Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    EACH_CASE,
    FEW,
    LAYOUTS,
    STURDY,
    draw,
    forced_plan,
    in_layout,
    needs_gpu,
    poisoned,
    tf32_as,
)
from fused_gradients import (
    Allowance,
    drawing,
    given,
    gradient_of_output,
    leaves_of,
    leftovers,
    reference_gradients,
    run_backward,
    whole_1024ths,
    why_not_backward,
)

import dcn
from dcn.bench import clustered_offsets

pytestmark = needs_gpu

SIXTEEN_BITS = [kind for kind in ARITHMETICS if not kind.wide]


def test_leftover_memory_holds_nan():
    with leftovers():
        small, large = torch.empty(1000, device="cuda"), torch.empty(1 << 20, device="cuda")
        assert small.isnan().all() and large.isnan().all()


def check(case: Case, kind, drawn) -> None:
    """In both memory formats, and in both modes where the plans differ."""
    allowance = Allowance(case, kind, drawn)
    bad = []
    for layout in LAYOUTS:
        tensors, grad = in_layout(allowance.tensors, layout), allowance.grad
        grad = grad.contiguous(memory_format=layout)
        ways = {"deterministic": poisoned}
        plans = [
            str(forced_plan(case, kind, -1, 0, pass_="backward", deterministic=mode))
            for mode in (True, False)
        ]
        if plans[0] != plans[1] or layout == torch.channels_last:
            ways["default"] = leftovers
        for name, way in ways.items():
            with way():
                values = run_backward(case, kind, tensors, grad)
            clear = case.c > 1 and max(case.size) > 1
            assert not clear or values["input"].is_contiguous(memory_format=layout)
            bad += [f"{layout}, {name}: {text}" for text in allowance.excesses(values)]
    assert not bad, f"{case}: {bad}"


@EACH_CASE
@EACH_ARITHMETIC
def test_error_is_at_most_twice_that_of_pytorch(case, kind):
    check(case, kind, drawing(case, kind))


# 16 bits and f32 take other tiles; a strided layer leaves pixels without samples; a large kernel
# has several plans; offset groups share an image; the last is too small for anything.
PLACES = [
    Case("64 channels", n=3, c=64, size=(20, 23), k=64),
    Case("stride 2", n=2, c=72, size=(21, 17), k=40, stride=(2, 2)),
    Case("7x7", n=1, c=64, size=(14, 15), k=64, kernel=(7, 7), padding=(3, 3)),
    Case("2 offset groups", n=2, c=128, size=(12, 19), k=70, offset_groups=2),
    Case("2 groups", n=1, c=192, size=(15, 12), k=128, groups=2, mask=False),
    Case("16 groups", n=2, c=128, size=(15, 18), k=128, groups=16),
    Case("9 pixels", n=7, c=64, size=(3, 3), k=64),
    Case("8 offset groups", n=2, c=80, size=(19, 37), k=40, offset_groups=8),
    Case(
        "8 offset groups, stride 2", n=1, c=64, size=(21, 45), k=24, offset_groups=8, stride=(2, 2)
    ),
]
EACH_PLACE = pytest.mark.parametrize("case", PLACES, ids=lambda case: case.name)


def normal(sigma: float):
    def change(case: Case, offset):
        drawn = torch.randn(offset.shape, generator=torch.Generator().manual_seed(7))
        return whole_1024ths(drawn * sigma)

    return change


def near(case: Case, offset, pixel: tuple[int, int], spread: float):
    drawn = torch.rand(offset.shape, generator=torch.Generator().manual_seed(7)) * 2 - 1
    distance = whole_1024ths(drawn * spread)
    return clustered_offsets(distance, case.kernel, *case.geometry.values(), pixel)


def around(where: str, spread: float):
    """All samples within `spread` of one pixel of each image; on it for 0."""

    def change(case: Case, offset):
        size = case.size
        pixel = {"middle": (size[0] // 2, size[1] // 2), "corner": (size[0] - 1, size[1] - 1)}
        return near(case, offset, pixel[where], spread)

    return change


def around_four_pixels(case: Case, offset):
    """Those lie at borders of the blocks that dgrad's warps have."""
    made = torch.empty_like(offset)
    for i in range(4):
        pixel = tuple(
            length // 8 * 4 if i >> axis & 1 else min(3, length - 1)
            for axis, length in enumerate(case.size)
        )
        made[..., i::4] = near(case, made, pixel, 0.5)[..., i::4]
    return made


def half_clustered(case: Case, offset):
    """Every second output pixel's: lists of every length side by side."""
    short, long = normal(1)(case, offset), around("middle", 0.5)(case, offset)
    long[..., ::2] = short[..., ::2]
    return long


OFFSETS = {
    "0 px": normal(0),
    "1 px": normal(1),
    "4 px": normal(4),
    "16 px": normal(16),
    "on one pixel": around("middle", 0),
    "around one pixel": around("middle", 1),
    "around the last pixel": around("corner", 1),
    "within 4 px of one pixel": around("middle", 4),
    "around four pixels": around_four_pixels,
    "half of them around one pixel": half_clustered,
    "all outside": lambda case, offset: torch.full(offset.shape, 1000.0),
}


@EACH_PLACE
@pytest.mark.parametrize("offsets", OFFSETS)
@EACH_ARITHMETIC
def test_any_distribution_of_offsets(case, offsets, kind):
    def change(tensors):
        made = OFFSETS[offsets](case, tensors["offset"]).to(tensors["offset"])
        return tensors | {"offset": made}

    check(case, kind, drawing(case, kind, change))


@EACH_ARITHMETIC
def test_thousands_of_samples_on_one_pixel(kind):
    case = Case("4800 pixels", n=1, c=64, size=(60, 80), k=40)

    def change(tensors):
        made = around("middle", 0)(case, tensors["offset"]).to(tensors["offset"])
        return tensors | {"offset": made}

    check(case, kind, drawing(case, kind, change))


# Gradients that are asked for, and who asks for no others.
WANTED = {
    "frozen weight": ("input", "offset", "mask"),
    "fixed offsets": ("input", "weight", "bias"),
    "fixed offsets and weight": ("input",),
    "fixed offsets, first layer": ("weight", "bias"),
    "first layer": ("weight", "offset", "mask", "bias"),
    "first layer, frozen weight": ("offset", "mask"),
    "offset alone": ("offset",),
    "mask alone": ("mask",),
    "weight alone": ("weight",),
    "bias alone": ("bias",),
    "without mask": ("input", "weight", "offset", "bias"),
}


@pytest.mark.parametrize("names", WANTED.values(), ids=WANTED)
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_only_what_is_asked_for_is_computed(case, names, kind):
    allowance = Allowance(case, kind, drawing(case, kind))
    with leftovers():
        values = run_backward(case, kind, allowance.tensors, allowance.grad, names)
    assert tuple(name for name in LEAVES if name in values) == names
    bad = allowance.excesses(values)
    assert not bad, bad


@pytest.mark.parametrize("kind", SIXTEEN_BITS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("wide", [("offset",), ("mask",), ("offset", "mask")], ids=str)
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_offset_and_mask_of_either_dtype(case, wide, kind):
    """The others are of 16 bits, and each gradient has the dtype of its own."""

    def narrow(tensors):
        return tensors | {
            name: tensors[name].to(kind.dtype) for name in {"offset", "mask"} - set(wide)
        }

    check(case, kind, drawing(case, kind, narrow, offset_dtype=torch.float32))


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_the_gradients_of_autograd_are_the_operators(case, kind):
    """Forced around the forward pass alone: the node remembers it."""
    tensors = draw(case, kind)
    leaves, grad = leaves_of(tensors), gradient_of_output(case, kind)
    with tf32_as(kind):
        with dcn.force_algorithm("fused"):
            out = dcn.deform_conv2d(**leaves, **case.geometry)
        assert dcn.last_plan().algorithm == "fused"
        values = torch.autograd.grad(out, [leaves[name] for name in LEAVES], grad)
    assert (dcn.last_plan().algorithm == "fused") == (why_not_backward(case, kind) == "")
    bad = Allowance(case, kind, drawing(case, kind)).excesses(
        dict(zip(LEAVES, values, strict=True))
    )
    assert not bad, bad


@EACH_ARITHMETIC
def test_the_plan_takes_what_it_says(kind):
    """Unforced: whatever it chooses is right."""
    for case in (STURDY, *PLACES):
        allowance = Allowance(case, kind, drawing(case, kind))
        wanted = [name in given(allowance.tensors) for name in LEAVES]
        with tf32_as(kind):
            values = torch.ops.dcn.deform_conv2d_backward(
                *case.backward_arguments(allowance.grad, allowance.tensors), wanted
            )
        named = {name: value for name, value in zip(LEAVES, values, strict=True) if value.numel()}
        bad = allowance.excesses(named)
        assert not bad, f"{case}, {dcn.last_plan()}: {bad}"


@EACH_ARITHMETIC
def test_one_image_more_or_less(kind):
    """Gradients of a batch are those of its images, also where images meet in a tile."""
    case = Case("", n=5, c=64, size=(3, 5), k=65)
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    whole = run_backward(case, kind, tensors, grad)
    for i in range(case.n):
        one = Case(**vars(case) | {"n": 1})
        image = tensors | {name: tensors[name][i : i + 1] for name in ("input", "offset", "mask")}
        alone = Allowance(one, kind, lambda seed, image=image, i=i: (image, grad[i : i + 1]))
        part = {name: whole[name][i : i + 1] for name in ("input", "offset", "mask")}
        bad = alone.excesses(part)
        assert not bad, (i, bad)


def test_one_rounding_too_many_is_noticed():
    """The allowance can be exceeded: an input rounded to bf16 shows in each gradient of it."""
    kind = next(kind for kind in ARITHMETICS if kind.name == "f32")
    for case in FEW:
        allowance = Allowance(case, kind, drawing(case, kind))
        for name, shows in (
            ("input", ("weight", "offset", "mask")),
            ("weight", ("input", "offset", "mask")),
            ("mask", ("input", "weight", "offset")),
        ):
            rounded = allowance.tensors[name].to(torch.bfloat16).float()
            values = reference_gradients(case, allowance.tensors | {name: rounded}, allowance.grad)
            bad = allowance.excesses({each: values[each] for each in shows})
            assert len(bad) == len(shows), (name, bad)
