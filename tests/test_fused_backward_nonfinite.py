"""NaN, infinite and huge numbers in the backward pass of `fused`: nothing leaks, nothing is
repaired.

Gradients are not finite where those of the reference are not, and nowhere else; the others are
right. Calls hold many images that are equal but for one bad number each, so that gradients of the
image, offset and mask show what each number reaches; those of weight and bias, sums over images,
show it in calls of one image.
"""

import math

import pytest
import torch
from cases import LEAVES, Case
from fused_cases import EACH_ARITHMETIC, LAYOUTS, draw, in_layout, needs_gpu, poisoned
from fused_gradients import (
    Allowance,
    gradient_of_output,
    leftovers,
    reference_gradients,
    run_backward,
)
from test_fused_nonfinite import HUGE, bad_images, every, of_images, some_pixels

from dcn import reference

pytestmark = needs_gpu

NAN, INF = math.nan, math.inf
OF_AN_IMAGE = ("input", "offset", "mask")  # gradients that have images

# Offset groups that end in a short slice, in 16 bits and in f32; output channels that end a tile.
GEOMETRY = Case(
    "one image", n=1, c=144, size=(3, 4), k=10, kernel=(2, 2), padding=(1, 0), offset_groups=2
)
# Padded channels, and kernels of more than one plan.
PADDED = Case("padded", n=1, c=15, size=(4, 3), k=9, kernel=(1, 11), padding=(0, 5))
GROUPS = Case("groups", n=1, c=128, size=(4, 3), k=20, groups=2, offset_groups=2)
# Six groups run as one, which has an offset group.
MERGED = Case("merged", n=1, c=48, size=(4, 3), k=24, groups=12, offset_groups=2)
GEOMETRIES = pytest.mark.parametrize(
    "case", [GEOMETRY, PADDED, GROUPS, MERGED], ids=lambda case: case.name
)


def check(case, kind, tensors, grad, names=LEAVES, clean=None, reached=None):
    """Returns where the reference's gradients are not finite. `clean`: the same without the bad
    numbers, for PyTorch's error.

    Beside an incoming gradient that is not finite, those of the offset and mask of a sample outside
    are 0, which `fused` drops, times it, which is NaN: either will do. So it is where im2col_gemm
    has another answer than the reference. `reached`: where gradients of the image need not be
    finite.
    """
    clean_tensors, clean_grad = clean or (tensors, grad)
    allowance = Allowance(case, kind, lambda seed: (clean_tensors, clean_grad))
    truth = reference_gradients(case, tensors, grad)
    finite = {name: value.isfinite() for name, value in truth.items()}
    other = run_backward(case, kind, tensors, grad, names, algorithm="im2col_gemm")
    outside = samples_outside(case, tensors)
    wrong = []
    for layout in LAYOUTS:
        arguments = in_layout(tensors, layout), grad.contiguous(memory_format=layout)
        for way in (poisoned, leftovers):
            with way():
                ours = run_backward(case, kind, *arguments, names)
            for name, value in ours.items():
                there = value.isfinite()
                differs = (there != finite[name]) & (there != other[name].isfinite())
                if name in outside:
                    differs &= ~(outside[name] & there)
                if name == "input" and reached is not None:
                    differs &= ~reached
                if differs.any():
                    wrong.append(f"{layout}, {way.__name__}, {name}: {differs.sum()} differ")
            judged = {name: finite[name] & ours[name].isfinite() for name in ours}
            found = allowance.excesses(masked(ours, judged), masked(truth, judged))
            wrong += [f"{layout}, {way.__name__}, {text}" for text in found]
    assert not wrong, wrong
    return {name: ~where for name, where in finite.items()}


def samples_outside(case, tensors):
    """Which numbers of the offset and of the mask are of a sample outside the image."""
    places = reference.positions(tensors["offset"].float(), case.kernel, *case.geometry.values())
    outside = ~reference.inside(*places, case.size) & ~sum(places).isnan()
    return {
        "offset": outside.flatten(1, 2).repeat_interleave(2, 1),
        "mask": outside.flatten(1, 2),
    }


def masked(values, kept):
    """Zeros elsewhere."""
    return {name: values[name].where(where, 0) for name, where in kept.items()}


def few(positions: list[int]) -> list[int]:
    return positions[:: len(positions) // 4 + 1]


def one_by_one(case, kind, name, value, positions):
    """Calls of one image with one bad number each."""
    for position in positions:
        _, tensors, _ = bad_images(case, kind, name, value, [position])
        yield tensors


@GEOMETRIES
@EACH_ARITHMETIC
def test_a_nan_offset_shows_where_it_is_used(case, kind):
    positions = every(case, "offset")
    images, tensors, clean = bad_images(case, kind, "offset", NAN, positions)
    grad = gradient_of_output(case, kind).expand(images.n, -1, -1, -1).contiguous()
    bad = check(images, kind, tensors, grad, OF_AN_IMAGE, (clean, grad))
    assert not bad["input"].any()  # nothing is scattered
    own = bad["offset"].view(images.n, -1)[:, positions].diagonal()
    assert own.all() and (bad["offset"].flatten(1).sum(1) == 2).all()  # with its other coordinate
    assert (bad["mask"].flatten(1).sum(1) == 1).all()
    grad = grad[:1]
    for tensors in one_by_one(case, kind, "offset", NAN, few(positions)):
        bad = check(case, kind, tensors, grad, clean=(draw(case, kind), grad))
        assert bad["weight"].any() and not bad["weight"].all() and not bad["bias"].any()


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", HUGE)
def test_a_sample_far_outside_has_no_gradient(case, kind, value):
    positions = every(case, "offset")
    images, tensors, _ = bad_images(case, kind, "offset", value, positions)
    grad = gradient_of_output(case, kind).expand(images.n, -1, -1, -1).contiguous()
    bad = check(images, kind, tensors, grad)
    assert not any(where.any() for where in bad.values())
    ours = run_backward(images, kind, tensors, grad, ("offset",))["offset"]
    assert (ours.view(images.n, -1)[:, positions].diagonal() == 0).all()


@EACH_ARITHMETIC
@pytest.mark.parametrize("place", [100, -100, INF, -INF, 3e9])
@pytest.mark.parametrize("content", [1.0, NAN, INF])
def test_all_samples_outside(kind, place, content):
    """The gradient of the bias is left, whatever the image holds."""
    case = Case("", n=3, c=96, size=(9, 20), k=40)
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    tensors["offset"].copy_(torch.tensor(place))  # inf in f16
    tensors["input"].fill_(content)
    for way in (poisoned, leftovers):
        with way():
            values = run_backward(case, kind, tensors, grad)
        for name in ("input", "weight", "offset", "mask"):
            assert (values[name] == 0).all(), name
        assert (values["bias"] != 0).all() and values["bias"].isfinite().all()


@EACH_ARITHMETIC
def test_the_borders_of_outside(kind):
    """Positions of exactly -1 and of H or W are outside, those just within are inside."""
    case = Case("", n=1, c=64, size=(6, 5), k=8, kernel=(1, 1), padding=(0, 0))
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    p, q = (torch.arange(size, device="cuda", dtype=kind.dtype) for size in case.size)
    places = [(-1, 2), (6, 2), (3, -1), (3, 5), (-0.5, 2), (5.5, 2), (3, -0.5), (3, 4.5)]
    for index, (y, x) in enumerate(places):
        tensors["offset"][0, 0] = y - p[:, None]
        tensors["offset"][0, 1] = x - q
        check(case, kind, tensors, grad)
        values = run_backward(case, kind, tensors, grad)
        for name in ("input", "weight", "offset", "mask"):
            assert (values[name] == 0).all() if index < 4 else (values[name] != 0).any(), (y, x)


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_mask_shows_where_it_is_used(case, kind, value):
    positions = every(case, "mask")
    images, tensors, clean = bad_images(case, kind, "mask", value, positions)
    grad = gradient_of_output(case, kind).expand(images.n, -1, -1, -1).contiguous()
    bad = check(images, kind, tensors, grad, OF_AN_IMAGE, (clean, grad))
    assert bad["offset"].any() and bad["input"].any()
    assert (bad["offset"].flatten(1).sum(1) <= 2).all()
    assert not bad["mask"].any()  # its own gradient does not depend on it
    for tensors in one_by_one(case, kind, "mask", value, few(positions)):
        check(case, kind, tensors, grad[:1], clean=(draw(case, kind), grad[:1]))


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_pixel_reaches_only_samples_that_touch_it(case, kind, value):
    """In particular not those beside it, beyond the border, or of another channel's group."""
    positions = some_pixels(case)
    images, tensors, clean = bad_images(case, kind, "input", value, positions)
    grad = gradient_of_output(case, kind).expand(images.n, -1, -1, -1).contiguous()
    bad = check(images, kind, tensors, grad, OF_AN_IMAGE, (clean, grad))
    assert not bad["input"].any()  # its own gradient does not depend on it
    for name in ("offset", "mask"):
        assert bad[name].any() and not bad[name].flatten(1).all(1).any()
    for tensors in one_by_one(case, kind, "input", value, few(positions)):
        bad = check(case, kind, tensors, grad[:1], clean=(draw(case, kind), grad[:1]))
        assert not bad["weight"].all() and not bad["bias"].any()


@GEOMETRIES
@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_incoming_gradient_reaches_only_what_its_pixel_touches(case, kind, value):
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    positions = list(range(grad.numel()))
    images = of_images(case, len(positions))
    many = {
        name: tensor.expand(images.n, -1, -1, -1).contiguous() if name in OF_AN_IMAGE else tensor
        for name, tensor in tensors.items()
    }
    clean = grad.expand(images.n, -1, -1, -1).contiguous()
    broken = clean.clone()
    broken.view(images.n, -1).fill_diagonal_(value)
    bad = check(images, kind, many, broken, OF_AN_IMAGE, (many, clean))
    for name in OF_AN_IMAGE:
        assert bad[name].any() and not bad[name].flatten(1).all(1).any()
    for position in few(positions):
        broken = grad.clone()
        broken.view(-1)[position] = value
        bad = check(case, kind, tensors, broken, clean=(tensors, grad))
        assert bad["bias"].sum() == 1 and bad["weight"].flatten(1).any(1).sum() == 1


@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_weight_shows_where_it_is_used(kind, value):
    case = Case("", n=2, c=128, size=(5, 6), k=66, groups=2, offset_groups=2)
    clean, grad = draw(case, kind), gradient_of_output(case, kind)
    tensors = clean | {"weight": clean["weight"].clone()}
    tensors["weight"][32, 3, 1, 1] = value
    # `fused` multiplies the weight by 0 where none of the tap's samples lands.
    channel = (torch.arange(128, device="cuda") == 3)[:, None, None]
    bad = check(case, kind, tensors, grad, clean=(clean, grad), reached=channel)
    assert not bad["weight"].any() and not bad["bias"].any()
    assert bad["input"].any(3).any(2).any(0).tolist() == [i == 3 for i in range(128)]
    assert not bad["offset"][:, 18:].any() and not bad["mask"][:, 9:].any()


@EACH_ARITHMETIC
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_frame_reaches_only_samples_that_touch_it(kind, value):
    """Samples at, on and beyond each border of the image, in steps of a quarter pixel."""
    case = Case("", n=1, c=72, size=(8, 24), k=16, kernel=(1, 2), padding=(0, 0), dilation=(1, 8))
    steps = torch.arange(-12, 5, device="cuda") / 4
    case = of_images(case, len(steps))
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    tensors["mask"].fill_(0.75)
    tensors["offset"][:, ::2] = steps[:, None, None, None]  # all by the same way, down and right
    tensors["offset"][:, 1::2] = steps.flip(0)[:, None, None, None]
    clean = tensors | {"input": tensors["input"].clone()}
    image = tensors["input"]
    image[:, :, 0], image[:, :, -1], image[:, :, :, 0], image[:, :, :, -1] = (value,) * 4
    bad = check(case, kind, tensors, grad, OF_AN_IMAGE, (clean, grad))
    assert not bad["input"].any()
    share = bad["mask"].float().mean((1, 2, 3))
    assert (share > 0).all() and (share < 0.8).all()  # the test reaches both


@EACH_ARITHMETIC
@pytest.mark.parametrize("name", ["input", "offset", "mask", "grad"])
def test_a_bad_image_does_not_reach_its_neighbours(kind, name):
    """Warps hold pixels of several images, and so do lists of samples."""
    case = Case("", n=5, c=64, size=(3, 5), k=65)
    clean, grad = draw(case, kind), gradient_of_output(case, kind)
    tensors, broken = dict(clean), grad.clone()
    if name == "grad":
        broken[2] = NAN
    else:
        tensors[name] = tensors[name].clone()
        tensors[name][2] = NAN
    bad = check(case, kind, tensors, broken, OF_AN_IMAGE, (clean, grad))
    for where in bad.values():
        if where.shape[0] == case.n:
            assert not where[[0, 1, 3, 4]].any()


@EACH_ARITHMETIC
def test_what_lies_behind_a_slice_is_not_read(kind):
    """Padded channels are zeros, also those of the incoming gradient."""
    case = Case("", n=2, c=5, size=(6, 7), k=11)
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)

    def sliced(tensor):
        behind = torch.full((2, 16, 6, 7), NAN, device="cuda", dtype=kind.dtype)
        behind = behind.contiguous(memory_format=torch.channels_last)
        behind[:, : tensor.shape[1]] = tensor
        return behind[:, : tensor.shape[1]]

    allowance = Allowance(case, kind, lambda seed: (tensors, grad))
    inside = tensors | {"input": sliced(tensors["input"])}
    with poisoned():
        values = run_backward(case, kind, inside, sliced(grad))
    assert not (bad := allowance.excesses(values)), bad
