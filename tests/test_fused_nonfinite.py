"""NaN, infinite and huge numbers in the fused forward pass: nothing leaks, nothing is repaired.

Each call holds many images that are equal but for one bad number each. What it does not reach must
have the bits of a clean call.
"""

import math

import pytest
import torch
from cases import Case
from fused_cases import (
    EACH_ARITHMETIC,
    LAYOUTS,
    choices,
    draw,
    in_layout,
    needs_gpu,
    poisoned,
    reference,
    run,
)

pytestmark = needs_gpu

NAN, INF = math.nan, math.inf
HUGE = [INF, -INF, 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**32, 3e9, -3e9, 40000.0, -40000.0]

# Offset groups that end in a short slice, in 16 bits and in f32; output channels that end a tile.
GEOMETRY = Case(
    "one image", n=1, c=144, size=(3, 4), k=10, kernel=(2, 2), padding=(1, 0), offset_groups=2
)
# Padded channels, and kernels of more than one plan.
PADDED = Case("padded", n=1, c=15, size=(4, 3), k=9, kernel=(1, 11), padding=(0, 5))
# Groups that run as one, and have several offset groups; in the second, channels are padded.
MERGED = [
    Case("depthwise", n=1, c=72, size=(3, 4), k=72, groups=72, kernel=(2, 2), padding=(1, 0)),
    Case("groups", n=1, c=36, size=(4, 3), k=24, groups=12, offset_groups=6, kernel=(1, 3),
         padding=(0, 1)),
]  # fmt: skip
GEOMETRIES = pytest.mark.parametrize("case", [GEOMETRY, PADDED], ids=lambda case: case.name)


def of_images(case: Case, count: int) -> Case:
    return Case(**{**vars(case), "n": count})


def bad_images(case, kind, name, value, positions):
    """As many equal images as positions, with `value` at one position of `name` in each."""
    tensors = draw(case, kind)
    count = len(positions)
    for leaf in ("input", "offset", "mask"):
        tensors[leaf] = tensors[leaf].expand(count, -1, -1, -1).contiguous()
    clean = tensors | {name: tensors[name].clone()}
    value = torch.tensor(value, dtype=torch.float64).to(kind.dtype)  # inf in f16
    images = torch.arange(count, device="cuda")
    tensors[name].view(count, -1)[images, torch.tensor(positions, device="cuda")] = value.item()
    return of_images(case, count), tensors, clean


def every(case: Case, name: str) -> list[int]:
    return list(range(case.tensors()[name][0].numel()))


def some_pixels(case: Case) -> list[int]:
    """Every pixel of the image, in the first and last channels of each offset group."""
    per_group, area = case.c // case.offset_groups, case.size[0] * case.size[1]
    last = [d * per_group - 1 for d in range(1, case.offset_groups + 1)]
    first = [d * per_group for d in range(case.offset_groups)]
    return [c * area + i for c in sorted({*first, *last, case.c // 2}) for i in range(area)]


def few(positions: list[int]) -> list[int]:
    """Spread over all, and so few that the plan accepts a split."""
    return positions[:: max(len(positions) // 12, 1)]


def signs(values):
    return values.isnan(), values.isposinf(), values.isneginf()


def check(case, kind, tensors, clean, exact=True):
    """Outputs that the reference has not finite are so in the same way, all others are clean."""
    expected = reference(case, tensors)
    finite = expected.isfinite()
    for tile, split_k in choices(case, kind):
        for layout in LAYOUTS:
            with poisoned():
                out = run(case, kind, in_layout(tensors, layout), tile, split_k)
            which = f"tile {tile}, split {split_k}, {layout}"
            if exact:
                for ours, theirs in zip(signs(out), signs(expected), strict=True):
                    assert torch.equal(ours, theirs), f"{which}: {(ours != theirs).sum()} differ"
            else:
                assert torch.equal(out.isfinite(), finite), which
            plain = run(case, kind, in_layout(clean, layout), tile, split_k)
            assert plain.isfinite().all(), which
            assert torch.equal(out[finite], plain[finite]), f"{which}: a clean output changed"
    return ~finite


def keeps_infinity(kind) -> bool:
    """Three tf32 products hold infinity times the rest of a weight, which may be 0 or of the other
    sign: NaN then stands for infinity.
    """
    return kind.name != "f32"


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("take", [list, few], ids=["all", "few"])
def test_a_nan_offset_shows_where_it_is_used(case, kind, take):
    positions = take(every(case, "offset"))
    case, tensors, clean = bad_images(case, kind, "offset", NAN, positions)
    bad = check(case, kind, tensors, clean)
    assert (bad.any(1).sum((1, 2)) == 1).all()  # one pixel of each image


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", HUGE)
def test_a_sample_far_outside_is_zero(case, kind, value):
    """As with a mask of 0 there."""
    positions = every(case, "offset")
    area = case.output_size[0] * case.output_size[1]
    case, tensors, clean = bad_images(case, kind, "offset", value, positions)
    sample = torch.tensor([i // (2 * area) * area + i % area for i in positions], device="cuda")
    images = torch.arange(case.n, device="cuda")
    clean["mask"] = clean["mask"].clone()
    clean["mask"].view(case.n, -1)[images, sample] = 0
    assert not check(case, kind, tensors, clean).any()


@EACH_ARITHMETIC
@pytest.mark.parametrize("place", [100, -100, INF, -INF, 3e9])
def test_all_samples_outside(kind, place):
    """The bias is left, whatever the image holds."""
    case = Case("", n=3, c=96, size=(9, 20), k=40)
    tensors = draw(case, kind)
    tensors["offset"].copy_(torch.tensor(place))  # inf in f16
    expected = tensors["bias"][:, None, None].expand(3, 40, 9, 20)
    for content in (1.0, NAN, INF):
        tensors["input"].fill_(content)
        for tile, split_k in choices(case, kind):
            with poisoned():
                out = run(case, kind, tensors, tile, split_k)
            assert torch.equal(out, expected), (content, tile, split_k)


@EACH_ARITHMETIC
def test_the_borders_of_outside(kind):
    """Positions of exactly -1 and of H or W are outside, those just within are inside."""
    case = Case("", n=1, c=64, size=(6, 5), k=8, kernel=(1, 1), padding=(0, 0))
    tensors = draw(case, kind)
    p, q = (torch.arange(size, device="cuda", dtype=kind.dtype) for size in case.size)
    places = [(-1, 2), (6, 2), (3, -1), (3, 5), (-0.5, 2), (5.5, 2), (3, -0.5), (3, 4.5)]
    for index, (y, x) in enumerate(places):
        tensors["offset"][0, 0] = y - p[:, None]
        tensors["offset"][0, 1] = x - q
        for tile, split_k in choices(case, kind):
            out = run(case, kind, tensors, tile, split_k) - tensors["bias"][:, None, None]
            assert (out == 0).all() if index < 4 else (out != 0).any(), (y, x)


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("take", [list, few], ids=["all", "few"])
def test_a_bad_mask_shows_where_it_is_used(case, kind, value, take):
    positions = take(every(case, "mask"))
    case, tensors, clean = bad_images(case, kind, "mask", value, positions)
    bad = check(case, kind, tensors, clean, exact=value != INF)
    assert bad.any() and (bad.any(1).sum((1, 2)) <= 1).all()


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("take", [list, few], ids=["all", "few"])
def test_a_bad_pixel_reaches_only_samples_that_touch_it(case, kind, value, take):
    """In particular not those beside it, beyond the border, or of another channel's group."""
    positions = take(some_pixels(case))
    case, tensors, clean = bad_images(case, kind, "input", value, positions)
    bad = check(case, kind, tensors, clean, exact=math.isnan(value) or keeps_infinity(kind))
    assert bad.any() and not bad.flatten(1).all(1).any()


@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_frame_reaches_only_samples_that_touch_it(kind, value):
    """Samples at, on and beyond each border of the image, in steps of a quarter pixel."""
    case = Case("", n=1, c=72, size=(8, 24), k=16, kernel=(1, 2), padding=(0, 0), dilation=(1, 8))
    steps = torch.arange(-12, 5, device="cuda") / 4
    case = of_images(case, len(steps))
    tensors = draw(case, kind)
    tensors["mask"].fill_(0.75)
    tensors["offset"][:, ::2] = steps[:, None, None, None]  # all by the same way, down and right
    tensors["offset"][:, 1::2] = steps.flip(0)[:, None, None, None]
    clean = tensors | {"input": tensors["input"].clone()}
    image = tensors["input"]
    image[:, :, 0], image[:, :, -1], image[:, :, :, 0], image[:, :, :, -1] = (value,) * 4
    bad = check(case, kind, tensors, clean, exact=math.isnan(value) or keeps_infinity(kind))
    share = bad.float().mean((1, 2, 3))
    assert (share > 0).all() and (share < 0.8).all()  # the test reaches both


@EACH_ARITHMETIC
def test_a_pixel_between_channels_that_pad_is_read_as_it_is(kind):
    """Padded channels are zeros, not what lies behind the tensor."""
    case = Case("", n=2, c=5, size=(6, 7), k=8)
    tensors = draw(case, kind)
    behind = torch.full((2, 8, 6, 7), NAN, device="cuda", dtype=kind.dtype)
    behind = behind.contiguous(memory_format=torch.channels_last)
    behind[:, :5] = tensors["input"]
    sliced = tensors | {"input": behind[:, :5]}
    for tile, split_k in choices(case, kind):
        with poisoned():
            out = run(case, kind, sliced, tile, split_k)
        assert torch.equal(out, run(case, kind, tensors, tile, split_k)), (tile, split_k)


@EACH_ARITHMETIC
@pytest.mark.parametrize("name", ["input", "offset", "mask"])
def test_a_bad_image_does_not_reach_its_neighbours(kind, name):
    """Warps hold pixels of several images."""
    case = Case("", n=5, c=64, size=(3, 5), k=65)
    clean = draw(case, kind)
    tensors = clean | {name: clean[name].clone()}
    tensors[name][2] = NAN
    bad = check(case, kind, tensors, clean)
    assert bad[2].all() and not bad[[0, 1, 3, 4]].any()


@pytest.mark.parametrize("case", MERGED, ids=lambda case: case.name)
@EACH_ARITHMETIC
@pytest.mark.parametrize("name", ["input", "offset", "mask", "weight"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_number_stays_in_its_group(case, kind, name, value):
    """What is beside it is as close to the reference as ever, not of the same bits."""
    if name == "weight":
        tensors = draw(case, kind)
        clean = tensors | {name: tensors[name].clone()}
        tensors[name][[1, -1]] = value
    else:
        case, tensors, clean = bad_images(case, kind, name, value, few(every(case, name)))
    expected, truth = reference(case, tensors), reference(case, clean)
    finite = expected.isfinite()
    assert finite.any()
    assert finite.all() == (name == "offset" and value == INF)  # samples outside
    for tile, split_k in choices(case, kind):
        plain = run(case, kind, clean, tile, split_k)
        allowed = 2 * (plain - truth).abs().max() + 1e-6
        for layout in LAYOUTS:
            with poisoned():
                out = run(case, kind, in_layout(tensors, layout), tile, split_k)
            assert torch.equal(out.isfinite(), finite), (tile, split_k, layout)
            assert (out - expected)[finite].abs().max() <= allowed, (tile, split_k, layout)


@EACH_ARITHMETIC
@pytest.mark.parametrize(
    "case",
    [
        Case("", n=2, c=128, size=(7, 9), k=66, groups=2),
        Case("", n=1, c=512, size=(3, 4), k=520),
    ],
    ids=["a tile ends within the rows of another group's weight", "packed in one part in f32"],
)
def test_a_bad_weight_and_bias_stay_in_their_channel(case, kind):
    clean = draw(case, kind)
    tensors = clean | {"weight": clean["weight"].clone(), "bias": clean["bias"].clone()}
    tensors["weight"][32, 3, 1, 1], tensors["weight"][40, 0, 0, 0] = NAN, INF
    tensors["bias"][33], tensors["bias"][65] = INF, NAN
    expected = reference(case, tensors)
    for tile, split_k in choices(case, kind):
        out = run(case, kind, tensors, tile, split_k)
        assert torch.equal(out.isfinite(), expected.isfinite()), (tile, split_k)
        rest = [i for i in range(case.k) if i not in (32, 33, 40, 65)]
        plain = run(case, kind, clean, tile, split_k)
        assert torch.equal(out[:, rest], plain[:, rest]), (tile, split_k)
