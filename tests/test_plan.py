"""The plan from Python: pinned choices for the ten layers, reasons, and forcing one."""

import threading

import pytest
import torch
from cases import named

import dcn
from dcn.layers import LAYERS

GPUS = ("h200", "a100", "l20", "rtx4090")

# (chunk_pixels, chunks, lanes) on an H200: f16 forward and backward, f32 forward and backward.
PINNED = {
    "seed-small": ((2048, 1, 1), (2048, 1, 1), (2048, 1, 1), (2048, 1, 1)),
    "seed-medium": ((16384, 1, 1), (16384, 1, 1), (8192, 2, 1), (4096, 4, 2)),
    "seed-large": ((11008, 3, 1), (5504, 6, 2), (2816, 12, 2), (2432, 14, 2)),
    "paddle": ((3876, 1, 1), (3876, 1, 1), (2048, 2, 1), (2048, 2, 1)),
    "deft": ((32768, 1, 1), (32768, 1, 1), (16384, 2, 1), (8192, 4, 2)),
    "rcnn-c3": ((16896, 2, 1), (8448, 4, 2), (11264, 3, 1), (5632, 6, 2)),
    "rcnn-c4": ((8400, 1, 1), (8400, 1, 1), (4224, 2, 1), (4224, 2, 1)),
    "rcnn-c5": ((2100, 1, 1), (2100, 1, 1), (2100, 1, 1), (2100, 1, 1)),
    "basicvsr++": ((19200, 3, 1), (9600, 6, 2), (5760, 10, 2), (5760, 10, 2)),
    "centernet": ((21888, 12, 2), (21888, 12, 2), (12032, 22, 2), (12032, 22, 2)),
}


def shapes(layer):
    return (
        (layer.N, layer.C, layer.H, layer.W),
        (layer.K, layer.C // layer.groups, layer.k, layer.k),
    )


def options(layer):
    return {
        "stride": layer.stride,
        "padding": layer.pad,
        "dilation": layer.dilation,
        "offset_groups": layer.offset_groups,
    }


def plan(layer, **more):
    return dcn.plan(*shapes(layer), **options(layer), **more)


def im2col_plan(layer, **more):
    return plan(layer, algorithm="im2col_gemm", **more)


def cut(plan):
    return plan.chunk_pixels, plan.chunks, plan.lanes


LAYER = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


@LAYER
def test_pinned_plans_on_an_h200(layer):
    calls = [(dtype, pass_) for dtype in ("f16", "f32") for pass_ in ("forward", "backward")]
    plans = [im2col_plan(layer, dtype=dtype, pass_=pass_) for dtype, pass_ in calls]
    assert [each.algorithm for each in plans] == ["im2col_gemm"] * 4
    chosen = tuple(cut(each) for each in plans)
    assert chosen == PINNED.get(layer.name), f'"{layer.name}": {chosen},'


@LAYER
@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_memory_beyond_inputs_and_outputs_is_bounded(layer, dtype, pass_):
    """Columns, workspaces and weight sums; the f32 sums of the input gradient are apart."""
    chosen = im2col_plan(layer, dtype=dtype, pass_=pass_)
    assert 0 < chosen.workspace_bytes <= 64 << 20
    narrow = dtype != "f32"
    pixels = layer.N * layer.C * layer.H * layer.W
    if pass_ == "backward" and narrow:
        assert chosen.accumulator_bytes == 4 * pixels
    if pass_ == "forward":
        assert chosen.accumulator_bytes == 0


@LAYER
@pytest.mark.parametrize("device", GPUS)
def test_chunks_cover_the_output_on_every_device(layer, device):
    for dtype in ("f16", "f32"):
        chosen = im2col_plan(layer, dtype=dtype, device=device)
        assert chosen.workspace_bytes <= 64 << 20
        pixels = layer.N * layer.H * layer.W
        assert (chosen.chunks - 1) * chosen.chunk_pixels < pixels
        assert chosen.chunks * chosen.chunk_pixels >= pixels


@LAYER
def test_the_cpu_runs_cpu(layer):
    for pass_ in ("forward", "backward"):
        assert plan(layer, device="cpu", pass_=pass_).algorithm == "cpu"


def test_torch_dtypes_are_understood():
    for name, dtype in (("f64", torch.float64), ("bf16", torch.bfloat16)):
        by_name, by_dtype = (im2col_plan(LAYERS[0], dtype=each) for each in (name, dtype))
        assert by_name.columns_bytes == by_dtype.columns_bytes == 2048 * 9 * 64 * dtype.itemsize


def test_im2col_step_is_a_number_of_images():
    layer = next(layer for layer in LAYERS if layer.N == 16)
    pixels = layer.H * layer.W
    for step, chunks in ((1, 16), (3, 6), (16, 1), (100, 1)):
        chosen = im2col_plan(layer, im2col_step=step)
        assert (chosen.chunk_pixels, chosen.chunks) == (min(step, 16) * pixels, chunks)


def reason(algorithm, **more):
    return dcn.why_not(algorithm, *shapes(LAYERS[0]), **(options(LAYERS[0]) | more))


def test_reasons_are_sentences_and_legal_is_empty():
    assert reason("im2col_gemm", device="h200") == ""
    assert reason("cpu", device="cpu") == ""
    assert reason("cpu", device="h200") == "cpu runs on CPU tensors, but the device is a GPU"
    assert reason("im2col_gemm", device="cpu") == (
        "im2col_gemm runs on a GPU, but the device is the CPU"
    )
    assert reason("im2col_gemm", pass_="backward", deterministic=True) == ""
    atomics = reason("fused", pass_="backward", deterministic=True, offset_groups=16)
    assert "atomics" in atomics and "differ from run to run" in atomics


def test_the_plan_says_whether_it_is_deterministic():
    assert plan(LAYERS[0]).deterministic
    assert plan(LAYERS[0], pass_="backward", deterministic=True).deterministic
    atomics = {"pass_": "backward", "algorithm": "im2col_gemm"}
    assert not plan(LAYERS[0], **atomics).deterministic
    assert plan(LAYERS[0], **atomics, deterministic=True).deterministic
    assert plan(LAYERS[0], **atomics, output_mask=(False, True, True, True, True)).deterministic
    assert plan(LAYERS[0], pass_="backward", device="cpu").deterministic


@LAYER
@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "h200", "a100", "l20", "rtx4090"])
def test_deterministic_mode_is_served_everywhere(layer, dtype, device):
    for algorithm in (None, "cpu" if device == "cpu" else "im2col_gemm"):
        call = {"dtype": dtype, "device": device, "pass_": "backward", "algorithm": algorithm}
        assert plan(layer, **call, deterministic=True).deterministic


def test_fixed_point_is_said_and_counted():
    """A word of 64 bits for each value of the input, two in float64."""
    layer = LAYERS[0]
    values = layer.N * layer.C * layer.H * layer.W
    for dtype, words in (("f64", 2), ("f32", 1), ("f16", 1)):
        given = {"dtype": dtype, "pass_": "backward"}
        chosen = im2col_plan(layer, **given, deterministic=True)
        assert chosen.accumulator_bytes == 8 * words * values
        assert str(chosen).endswith(", input gradient in fixed point")
        default = im2col_plan(layer, **given)
        assert chosen.workspace_bytes == default.workspace_bytes
        assert "fixed point" not in str(default)
        others = im2col_plan(layer, **given, deterministic=True, output_mask=[False] + [True] * 4)
        assert others.accumulator_bytes == 0 and "fixed point" not in str(others)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"device": "abacus"}, "there is no device preset 'abacus', only cpu h200"),
        ({"dtype": "f8"}, "there is no dtype 'f8': f64, f32, f16 or bf16"),
        ({"pass_": "sideways"}, "there is no pass 'sideways': forward or backward"),
    ],
)
def test_unknown_names_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        plan(LAYERS[0], **more)


def test_an_unknown_algorithm_is_refused_with_its_name():
    with pytest.raises(ValueError, match="there is no algorithm 'winograd'"):
        reason("winograd")
    with (
        pytest.raises(ValueError, match="there is no algorithm 'winograd'"),
        dcn.force_algorithm("winograd"),
    ):
        pass


def test_plans_print_themselves():
    chosen = im2col_plan(LAYERS[0], im2col_step=1)
    assert str(chosen) in repr(chosen)
    assert str(chosen).startswith("im2col_gemm: 2 chunks of 1024 pixels on ")
    assert str(plan(LAYERS[0], device="cpu")) == "cpu"


def call(device, case=None):
    case = case or named("plain")
    tensors = case.tensors(torch.float32, device, requires_grad=True)
    return dcn.deform_conv2d(**tensors, **case.geometry), tensors


FORCED = {"cpu": "cpu", "cuda": "im2col_gemm"}


def test_the_forced_algorithm_runs(device):
    with dcn.force_algorithm(FORCED[device]):
        out, _ = call(device)
    assert dcn.last_plan().algorithm == FORCED[device]
    out.sum().backward()
    assert dcn.last_plan().algorithm == FORCED[device]


def test_an_algorithm_that_cannot_serve_raises_its_reason(device):
    other = FORCED["cuda" if device == "cpu" else "cpu"]
    with dcn.force_algorithm(other), pytest.raises(RuntimeError, match=f"{other} runs on"):
        call(device)
    call(device)  # the scope is over


def test_scopes_nest_and_end_with_an_exception(device):
    mine, other = FORCED[device], FORCED["cuda" if device == "cpu" else "cpu"]
    with dcn.force_algorithm(other):
        with dcn.force_algorithm(mine):
            call(device)
        with pytest.raises(RuntimeError, match="runs on"):
            call(device)
    with pytest.raises(KeyError), dcn.force_algorithm(other):
        raise KeyError
    call(device)


def test_a_scope_is_of_one_thread(device):
    results = []
    with dcn.force_algorithm(FORCED["cuda" if device == "cpu" else "cpu"]):
        thread = threading.Thread(target=lambda: results.append(call(device)[0].shape))
        thread.start()
        thread.join()
    assert results == [(2, 6, 7, 6)]


def test_the_plan_of_the_forward_travels_to_the_backward(device):
    """Also out of the scope, and on another thread, which is where autograd runs it."""
    if device == "cpu":
        pytest.skip("one algorithm serves the CPU: nothing could differ")
    with dcn.force_algorithm("im2col_gemm", lanes=1, chunk_pixels=10):
        out, _ = call(device)
    assert cut(dcn.last_plan()) == (10, 9, 1)
    out.sum().backward()
    assert cut(dcn.last_plan()) == (10, 9, 1)
    call(device)
    assert cut(dcn.last_plan()) != (10, 9, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 0},
        {"dilation": 0},
        {"padding": -1},
        {"weight_shape": (8, 8, 0, 3)},
        {"weight_shape": (8, 16, 3, 3)},
        {"weight_shape": (8, 3, 3, 3)},
        {"offset_groups": 3},
        {"input_shape": (1, 8, 2, 2)},
        {"input_shape": (-1, 8, 8, 8)},
    ],
    ids=str,
)
def test_a_shape_that_no_convolution_has_is_refused(change):
    """By an exception: a division by zero would end the process."""
    call = {"input_shape": (1, 8, 8, 8), "weight_shape": (8, 8, 3, 3)} | change
    with pytest.raises(ValueError, match=r"positive|negative|divisible|too small"):
        dcn.plan(**call)


def test_a_huge_im2col_step_means_all_images():
    shapes = (2, 8, 32, 32), (8, 8, 1, 1)
    plan = dcn.plan(*shapes, algorithm="im2col_gemm", im2col_step=2**62)
    assert cut(plan) == (2 * 32 * 32, 1, 1)
