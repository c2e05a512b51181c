"""The plan of `fused` from Python, without a GPU: where it is taken, why not, forced tiles."""

import pytest
from cases import Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    EACH_CASE,
    FEW,
    MERGED,
    MOST_PARTS,
    MOST_TILES,
    choices,
    forced_plan,
    sm80_tiles,
    why_not_fused,
)

import dcn
from dcn.layers import LAYERS

LAYER = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


def case_of(layer) -> Case:
    return Case(
        layer.name, n=layer.N, c=layer.C, size=(layer.H, layer.W), k=layer.K,
        kernel=(layer.k, layer.k), stride=(layer.stride,) * 2, padding=(layer.pad,) * 2,
        dilation=(layer.dilation,) * 2, groups=layer.groups, offset_groups=layer.offset_groups,
        mask=layer.mask,
    )  # fmt: skip


def call_of(case: Case):
    shapes = (case.n, case.c, *case.size), (case.k, case.c // case.groups, *case.kernel)
    return shapes, case.geometry | {"offset_groups": case.offset_groups}


def plan(case: Case, **more):
    shapes, options = call_of(case)
    return dcn.plan(*shapes, **options, **more)


def why_not(case: Case, **more) -> str:
    shapes, options = call_of(case)
    return dcn.why_not("fused", *shapes, **options, **more)


@LAYER
@EACH_ARITHMETIC
def test_every_layer_runs_fused_forward(layer, kind):
    case = case_of(layer)
    assert why_not_fused(case, kind) == ""
    chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32)
    assert chosen.algorithm == "fused"
    assert chosen.tile >= 0 and chosen.split_k >= 1
    assert chosen.deterministic


@LAYER
@EACH_ARITHMETIC
def test_memory_beyond_inputs_and_outputs_is_the_packed_weight(layer, kind):
    case = case_of(layer)
    chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32)
    weight = case.c * case.k * 9 * kind.dtype.itemsize
    # The packed weight, twice where 3xTF32 keeps its trailing parts, but not 18 MiB on rcnn-c5.
    twice = kind.name == "f32" and 2 * weight <= 16 * 2**20
    assert chosen.workspace_bytes == (2 * weight if twice else weight) <= 9 * 2**20, chosen
    assert chosen.columns_bytes == chosen.accumulator_bytes == 0


# (tile, split_k) on an H200: f16 and bf16, tf32, f32 by 3xTF32.
PINNED = {
    "seed-small": ((0, 3), (0, 3), (0, 6)),
    "seed-medium": ((4, 1), (4, 1), (4, 1)),
    "seed-large": ((5, 1), (5, 1), (4, 1)),
    "paddle": ((14, 2), (14, 2), (4, 2)),
    "deft": ((1, 1), (2, 1), (3, 1)),
    "rcnn-c3": ((4, 1), (4, 1), (4, 1)),
    "rcnn-c4": ((14, 1), (5, 2), (4, 1)),
    "rcnn-c5": ((14, 2), (14, 2), (4, 3)),
    "basicvsr++": ((6, 1), (6, 1), (7, 2)),
    "centernet": ((1, 1), (2, 1), (3, 1)),
}


@LAYER
def test_pinned_tiles_on_an_h200(layer):
    case = case_of(layer)
    chosen = []
    for kind in ARITHMETICS:
        each = plan(case, dtype=kind.dtype, tf32=kind.tf32)
        chosen.append((each.tile, each.split_k))
    assert chosen[0] == chosen[1]
    chosen = tuple(chosen[1:])
    assert chosen == PINNED.get(layer.name), f'"{layer.name}": {chosen},'


@LAYER
@EACH_ARITHMETIC
def test_tiles_of_fprop_sm80_are_for_other_devices_or_forced(layer, kind):
    case = case_of(layer)
    theirs = sm80_tiles(case, kind)
    assert theirs
    for device in ("a100", "l20", "rtx4090"):
        chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32, device=device)
        assert (chosen.algorithm, chosen.split_k) == ("fused", 1)
        assert chosen.tile in theirs
    for tile in theirs:
        assert forced_plan(case, kind, tile, 1, device="h200").tile == tile
        assert forced_plan(case, kind, tile, 2, device="h200") is None  # they do not split
    assert plan(case, dtype=kind.dtype, tf32=kind.tf32, device="h200").tile not in theirs


def test_a_warp_of_32_pixels_needs_its_images_within_32_bits():
    """24 or 40 images of 128 MiB, an output pixel each: a warp of 32 meets 3 or 4 GiB."""
    kind = next(kind for kind in ARITHMETICS if kind.name == "f16")
    for n, tiles in ((24, 3), (40, 1)):
        case = Case("", n=n, c=64, size=(1024, 1024), k=8, stride=(1024, 1024))
        assert why_not_fused(case, kind) == ""
        assert len(sm80_tiles(case, kind)) == tiles


@LAYER
def test_other_calls_run_im2col_gemm(layer):
    case = case_of(layer)
    for pass_ in ("forward", "backward"):
        assert plan(case, dtype="f64", pass_=pass_).algorithm == "im2col_gemm"
    for kind in ARITHMETICS:
        given = {"dtype": kind.dtype, "tf32": kind.tf32, "pass_": "backward"}
        assert plan(case, device="a100", **given).algorithm == "im2col_gemm"


@EACH_CASE
@EACH_ARITHMETIC
def test_the_plan_takes_fused_where_it_is_legal(case, kind):
    reason = why_not_fused(case, kind)
    chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32)
    if reason:
        assert chosen.algorithm == "im2col_gemm", reason
    elif case.groups == 1:
        assert chosen.algorithm == "fused"
    if chosen.algorithm == "fused":
        # What it chose is one of the tiles that it would accept.
        assert (chosen.tile, chosen.split_k) in choices(case, kind)


@EACH_ARITHMETIC
@pytest.mark.parametrize("groups, merged", [(3, (1, 1)), (32, (8, 4)), (192, (64, 32))])
def test_small_groups_run_as_one(groups, merged, kind):
    case = Case("", n=4, c=192, size=(64, 64), k=192, groups=groups)
    assert why_not_fused(case, kind) == ""
    chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32)
    assert (chosen.algorithm, chosen.merged) == ("fused", merged[kind.wide])
    assert ("groups as one" in str(chosen)) == (chosen.merged > 1)
    elsewhere = plan(case, dtype=kind.dtype, tf32=kind.tf32, device="a100")
    assert elsewhere.algorithm == ("fused" if groups == 3 else "im2col_gemm")


@EACH_ARITHMETIC
@pytest.mark.parametrize("c, k, groups", [(96, 6144, 96), (127, 127, 127)])
def test_groups_that_would_be_mostly_zeros_run_im2col_gemm(c, k, groups, kind):
    case = Case("", n=4, c=c, size=(64, 64), k=k, groups=groups)
    assert why_not_fused(case, kind) == ""
    chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32)
    assert (chosen.algorithm, chosen.merged) == ("im2col_gemm", 1)


def test_the_dtype_and_the_switch_choose_the_arithmetic():
    for kind in ARITHMETICS:
        name = "3xtf32" if kind.name == "f32" else kind.name
        text = str(plan(FEW[1], dtype=kind.dtype, tf32=kind.tf32))
        assert text.startswith(f"fused: {name}, "), text


# The reason for every call that is left out, and part of its sentence.
REASONS = [
    ({"dtype": "f64"}, "f64"),
    ({"pass_": "backward", "device": "a100"}, "needs compute capability 9.x"),
    ({"device": "cpu"}, "the device is the CPU"),
]


@pytest.mark.parametrize("change, part", REASONS, ids=lambda value: str(value))
def test_why_not_is_a_sentence(change, part):
    case = FEW[1]
    assert why_not(case, dtype="f16") == ""
    reason = why_not(case, **({"dtype": "f16"} | change))
    assert "fused" in reason and part in reason
    assert not reason.endswith(".") and "\n" not in reason


@pytest.mark.parametrize("device", ["a100", "l20", "rtx4090"])
def test_why_not_and_the_plan_agree_on_other_devices(device):
    for case in FEW:
        if case is MERGED:  # elsewhere groups run alone, and small ones are not worth it
            continue
        reason = why_not(case, dtype="f16", device=device)
        chosen = plan(case, dtype="f16", device=device).algorithm
        assert chosen == ("im2col_gemm" if reason else "fused"), reason
        assert reason == "" or "compute capability" in reason


def test_an_empty_batch_is_not_for_fused():
    empty = Case("", n=0, c=64, k=64)
    assert "empty" in why_not(empty, dtype="f16")
    assert plan(empty, dtype="f16").algorithm == "im2col_gemm"


# Kernels divide output pixels below 2^31 (fast_divide.h), address the images of a warp's 16 pixels
# with 32 bits of bytes, and a grid has at most 65535 rows, tiles of output channels.
TOO_LARGE = {
    "3 * 2^30 output pixels": Case("", n=3 << 16, c=8, size=(128, 128), k=8),
    "an image of 6 GiB": Case("", n=1, c=96, size=(4096, 4096), k=8),
    "an image of 8 GiB with its padding": Case(
        "", n=1, c=1, size=(16384, 32760), k=1, kernel=(1, 1), padding=(0, 0)
    ),
    "16 images of 1 GiB": Case("", n=16, c=64, size=(2048, 2048), k=8, stride=(2048, 2048)),
    "70001 groups": Case("", n=1, c=70001, size=(2, 2), k=70001, groups=70001),  # a prime
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_32_bits_do_not_hold_is_left_to_im2col_gemm(name):
    case = TOO_LARGE[name]
    reason = why_not(case, dtype="f32")
    assert reason.startswith("fused ")
    assert plan(case, dtype="f32").algorithm == "im2col_gemm"
    assert plan(case, dtype="f16").algorithm in ("im2col_gemm", "fused")


def test_more_groups_than_a_grid_has_rows_run_merged_alone():
    case = Case("", n=1, c=70000, size=(2, 2), k=70000, groups=70000)
    assert why_not(case, dtype="bf16") == ""
    kind = next(kind for kind in ARITHMETICS if kind.name == "bf16")
    chosen = choices(case, kind)
    assert chosen and not {tile for tile, _ in chosen} & set(sm80_tiles(FEW[0], kind))


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_forced_tiles_and_splits_are_honoured(case, kind):
    accepted = choices(case, kind)
    assert max(tile for tile, _ in accepted) < MOST_TILES - 1  # none is left untried
    assert max(split for _, split in accepted) < MOST_PARTS
    for tile, split_k in accepted:
        chosen = forced_plan(case, kind, tile, split_k)
        assert (chosen.algorithm, chosen.tile, chosen.split_k) == ("fused", tile, split_k)
        whole = forced_plan(case, kind, tile, 1)
        if whole is not None:  # sums of the parts meet on the chip
            assert chosen.workspace_bytes == whole.workspace_bytes
    for tile in {tile for tile, _ in accepted}:
        assert forced_plan(case, kind, tile, 0).tile == tile
    for split_k in {split_k for _, split_k in accepted}:
        assert forced_plan(case, kind, -1, split_k).split_k == split_k
    free = forced_plan(case, kind, -1, 0)
    chosen = plan(case, dtype=kind.dtype, tf32=kind.tf32)
    assert (free.tile, free.split_k) == (chosen.tile, chosen.split_k)


def test_a_tile_that_is_not_there_is_refused():
    for kind in ARITHMETICS:
        assert forced_plan(FEW[1], kind, 999, 1) is None
        assert forced_plan(FEW[1], kind, -1, 99) is None
        steps_of_one_tap = Case("", n=1, c=8, size=(4, 4), k=8, kernel=(1, 1), padding=(0, 0))
        assert forced_plan(steps_of_one_tap, kind, -1, 2) is None  # one step has no two parts


@EACH_ARITHMETIC
@pytest.mark.parametrize("device, algorithm", [("h200", "fused"), ("a100", "im2col_gemm")])
def test_a_forced_forward_forces_the_backward_where_there_is_one(kind, device, algorithm):
    backward = forced_plan(FEW[1], kind, -1, 0, pass_="backward", device=device)
    assert backward.algorithm == algorithm


def test_determinism_changes_nothing():
    for kind in ARITHMETICS:
        given = {"dtype": kind.dtype, "tf32": kind.tf32}
        assert str(plan(FEW[0], **given)) == str(plan(FEW[0], deterministic=True, **given))
