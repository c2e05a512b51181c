"""PyTorch's deterministic mode on a GPU, where nothing gathers: sums in fixed point.

`fused` gathers most input gradients (test_fused_backward_streams). Here are the calls that it does
not serve then, and those of im2col_gemm when that is forced.
"""

import warnings

import pytest
import torch
from cases import LEAVES, Case

import dcn
from dcn import reference
from dcn.bench import clustered_offsets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

NARROW = Case("16 narrow offset groups", n=2, c=128, size=(18, 21), k=24, offset_groups=16)
CALLS = [
    NARROW,
    Case("1 offset group", n=3, c=40, size=(14, 15), k=24),
    Case("3 groups, 2 offset groups", n=2, c=12, size=(13, 12), k=9, groups=3, offset_groups=2),
    Case("depthwise", n=2, c=24, size=(15, 12), k=24, groups=24, bias=False),
    Case("stride 2, v1", n=2, c=20, size=(15, 19), k=8, stride=(2, 2), offset_groups=5, mask=False),
]
EACH_CALL = pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
EACH_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)


def draw(case: Case, dtype: torch.dtype):
    tensors = case.tensors(dtype, "cuda")
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(case.n, case.k, *case.output_size, generator=generator)
    return tensors, grad.to("cuda", dtype)


def clustered(case: Case, tensors):
    """All samples of an image within a pixel of its middle."""
    near = torch.rand(tensors["offset"].shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    pixel = (case.size[0] // 2, case.size[1] // 2)
    offset = clustered_offsets(near, case.kernel, *case.geometry.values(), pixel)
    return tensors | {"offset": offset.to(tensors["offset"])}


def gradients(case: Case, tensors, grad, deterministic=True, lanes=0, wanted=(True,) * 5):
    """By im2col_gemm, by name. Anything that PyTorch would warn of is an error."""
    torch.use_deterministic_algorithms(deterministic)
    with warnings.catch_warnings(), dcn.force_algorithm("im2col_gemm", lanes):
        warnings.simplefilter("error")
        values = torch.ops.dcn.deform_conv2d_backward(
            *case.backward_arguments(grad, tensors), wanted
        )
    plan = dcn.last_plan()
    assert plan.algorithm == "im2col_gemm"
    assert plan.deterministic == deterministic or not wanted[0]
    assert ("fixed point" in str(plan)) == (deterministic and wanted[0])
    return dict(zip(LEAVES, values, strict=True))


def reference_gradient(case: Case, tensors, grad) -> torch.Tensor:
    """Of the input, in float64."""
    wide = {name: None if t is None else t.double() for name, t in tensors.items()}
    image = wide["input"].requires_grad_()
    out = reference.deform_conv2d(**(wide | {"input": image}), **case.geometry)
    return torch.autograd.grad(out, image, grad.double())[0]


@EACH_CALL
@EACH_DTYPE
def test_twenty_runs_have_the_same_bits(case, dtype):
    tensors, grad = draw(case, dtype)
    for drawn in (tensors, clustered(case, tensors)):
        for lanes in (0, 3):
            first = gradients(case, drawn, grad, lanes=lanes)
            assert first["input"].abs().amax() > 0
            for _ in range(19):
                again = gradients(case, drawn, grad, lanes=lanes)
                assert all(torch.equal(again[name], first[name]) for name in LEAVES)


@EACH_CALL
@EACH_DTYPE
def test_the_error_is_that_of_the_atomics_of_floats(case, dtype):
    """Within twice, and half an ulp of the largest value is free."""
    tensors, grad = draw(case, dtype)
    for drawn in (tensors, clustered(case, tensors)):
        truth = reference_gradient(case, drawn, grad)
        free = 0.5 * torch.finfo(dtype).eps * truth.abs().amax()
        ours, theirs = (
            (gradients(case, drawn, grad, mode)["input"].double() - truth).abs().amax()
            for mode in (True, False)
        )
        assert ours <= 2 * torch.maximum(theirs, free), (ours, theirs, free)


@EACH_CALL
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_other_gradients_are_untouched(case, form):
    tensors, grad = draw(case, torch.float16)
    tensors["input"] = tensors["input"].contiguous(memory_format=form)
    ours, theirs = (gradients(case, tensors, grad, mode) for mode in (True, False))
    assert ours["input"].is_contiguous(memory_format=form)
    assert all(torch.equal(ours[name], theirs[name]) for name in LEAVES[1:])
    alone = gradients(case, tensors, grad, wanted=(True, False, False, False, False))
    assert torch.equal(alone["input"], ours["input"])
    with_weight = gradients(case, tensors, grad, wanted=(True, True, False, False, False))
    assert torch.equal(with_weight["input"], ours["input"])
    assert torch.equal(with_weight["weight"], ours["weight"])


def test_the_plan_takes_it_where_nothing_gathers():
    torch.use_deterministic_algorithms(True)
    for case, dtype in ((NARROW, torch.float16), (CALLS[1], torch.float64)):
        leaves = case.tensors(dtype, "cuda", requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dcn.deform_conv2d(**leaves, **case.geometry).sum().backward()
        plan = dcn.last_plan()
        assert plan.deterministic and "fixed point" in str(plan)


def classes(values: torch.Tensor) -> torch.Tensor:
    """0: finite, 1: NaN, 2: infinity, 3: -infinity."""
    kinds = (values.isnan(), values.isposinf(), values.isneginf())
    return sum(kind.int() * number for number, kind in enumerate(kinds, 1))


@EACH_CALL
@EACH_DTYPE
@pytest.mark.parametrize("name", ["grad", "weight", "mask", "offset"])
def test_what_is_not_finite_lands_where_floats_would(case, dtype, name):
    tensors, grad = draw(case, dtype)
    clean = gradients(case, tensors, grad)["input"]
    broken = grad if name == "grad" else tensors[name]
    if broken is None:
        pytest.skip("no mask")
    for index, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        broken.view(-1)[index * (broken.numel() // 3) :][:2] = value
    ours, theirs = (gradients(case, tensors, grad, mode)["input"] for mode in (True, False))
    assert torch.equal(classes(ours), classes(theirs))
    assert name == "offset" or not ours.isfinite().all()
    most = 1e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-4
    difference = (ours - theirs).nan_to_num(0, 0, 0).abs().amax()
    assert difference <= most * clean.abs().amax()


def test_a_sum_of_both_infinities_is_nan():
    case = Case("", n=1, c=1, size=(3, 3), k=1, kernel=(1, 1), padding=(0, 0), bias=False)
    tensors, grad = draw(case, torch.float32)
    tensors["offset"].zero_()
    tensors["offset"][0, :, 0, 1] = torch.tensor([1.0, 0.0])  # onto the pixel below
    grad[0, 0, 0, 1], grad[0, 0, 1, 1], grad[0, 0, 2, 2] = torch.inf, -torch.inf, -torch.inf
    ours = gradients(case, tensors, grad)["input"][0, 0]
    assert ours[1, 1].isnan() and ours.isnan().sum() == 1
    assert ours[2, 2].abs() == torch.inf and ours.isinf().sum() == 1


@pytest.mark.parametrize(
    "dtype, exponents",
    [(torch.float64, (-900, -300, 300, 1000)), (torch.float32, (-80, -60, 60, 110))],
    ids=str,
)
def test_any_range(dtype, exponents):
    """Powers of two change nothing but the exponent."""
    case = CALLS[1]
    tensors, grad = draw(case, dtype)
    expected = gradients(case, tensors, grad)["input"]
    for exponent in exponents:
        half = exponent // 2  # between the gradient and the weight
        scaled = tensors | {"weight": tensors["weight"] * 2.0**half}
        ours = gradients(case, scaled, grad * 2.0 ** (exponent - half))["input"]
        assert torch.equal(ours * 2.0**-half * 2.0 ** (half - exponent), expected), exponent


@EACH_DTYPE
def test_zeros_and_a_bound_beyond_the_type(dtype):
    case = CALLS[1]
    tensors, grad = draw(case, dtype)
    assert (gradients(case, tensors, grad * 0)["input"] == 0).all()
    assert (gradients(case, tensors | {"mask": tensors["mask"] * 0}, grad)["input"] == 0).all()
    # The largest weight meets a gradient of zero, the largest gradient weights of zero.
    large = torch.finfo(dtype).max / 4
    weight, many = tensors["weight"].clone(), grad.clone()
    weight[0], weight[1] = large, 0
    many[:, 0], many[:, 1] = 0, large
    drawn = tensors | {"weight": weight}
    ours, theirs = (gradients(case, drawn, many, mode)["input"] for mode in (True, False))
    assert ours.isfinite().all() and theirs.isfinite().all()


@pytest.mark.parametrize("name", ["mask", "weight", "input", "grad"])
def test_views_are_bounded_too(name):
    """The largest number lies where only strides lead."""
    case = CALLS[1]
    tensors, grad = draw(case, torch.float32)
    every = tensors | {"grad": grad}
    every[name][-1, -1, -1, -1] = 1000
    expected = gradients(case, {leaf: every[leaf] for leaf in LEAVES}, every["grad"])["input"]
    wide = torch.empty(*(2 * size for size in every[name].shape), device="cuda").fill_(1e30)
    view = wide[::2, ::2, ::2, ::2]
    view.copy_(every[name])
    every[name] = view
    ours = gradients(case, {leaf: every[leaf] for leaf in LEAVES}, every["grad"])["input"]
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_replayed_graph_equals_eager(dtype, lanes):
    tensors, grad = draw(NARROW, dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradients(NARROW, tensors, grad, lanes=lanes)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = gradients(NARROW, tensors, grad, lanes=lanes)
    for factor in (1.0, -0.3, 50.0):
        grad.mul_(factor)
        graph.replay()
        expected = gradients(NARROW, tensors, grad, lanes=lanes)
        assert all(torch.equal(results[name], expected[name]) for name in LEAVES)


def test_nothing_waits_for_the_device():
    tensors, grad = draw(NARROW, torch.float16)
    gradients(NARROW, tensors, grad)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(NARROW, tensors, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@EACH_DTYPE
@pytest.mark.parametrize("lanes", [1, 2])
def test_memory_is_that_of_the_plan(dtype, lanes):
    tensors, grad = draw(NARROW, dtype)
    tensors["input"] = tensors["input"].contiguous(memory_format=torch.channels_last)
    tensors["weight"] = tensors["weight"].contiguous(memory_format=torch.channels_last)
    grad = grad.contiguous(memory_format=torch.channels_last)
    # PyTorch's own filling of memory takes some of its own.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        gradients(NARROW, tensors, grad, lanes=lanes)
        plan = dcn.last_plan()
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        torch.cuda.reset_peak_memory_stats()
        values = gradients(NARROW, tensors, grad, lanes=lanes)
        torch.cuda.synchronize()
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True
    results = sum(value.numel() * value.element_size() for value in values.values())
    extra = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before - results
    planned = plan.workspace_bytes + plan.accumulator_bytes
    assert extra <= planned + 16 * 512, (extra, planned)  # roundings
