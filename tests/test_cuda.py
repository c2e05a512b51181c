"""What only a GPU can show: streams, graphs, lanes, memory, several devices."""

import contextlib
import threading

import pytest
import torch
from cases import LEAVES, Case, named, requested_bytes

import dcn
from dcn.layers import LAYERS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

CASE = Case("", n=5, c=32, size=(19, 23), k=24, groups=2, offset_groups=4)
EXACT = {"rtol": 0, "atol": 1e-11}  # float64 with another order of summation


def leaves_of(tensors):
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}


def gradients(out, leaves, grad):
    names = [name for name in LEAVES if name in leaves]
    return torch.autograd.grad(out, [leaves[name] for name in names], grad)


def run(case, leaves, grad=None):
    """Output, then the gradients in the operators' order."""
    out = dcn.deform_conv2d(**leaves, **case.geometry)
    grad = torch.linspace(-1, 1, out.numel()).to(out).reshape(out.shape) if grad is None else grad
    return [out.detach(), *gradients(out, leaves, grad)]


def draw(case=CASE, dtype=torch.float64, device="cuda"):
    return leaves_of(case.tensors(dtype, device))


def long_work() -> None:
    """Keeps the current stream busy for tens of milliseconds."""
    torch.cuda._sleep(50_000_000)


def test_work_is_queued_on_the_current_stream():
    """Launched on another stream, kernels would read the inputs before they are written."""
    values = draw()
    expected = run(CASE, values)
    late = {name: torch.zeros_like(value).requires_grad_() for name, value in values.items()}
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        stream = torch.cuda.current_stream()
        long_work()
        with torch.no_grad():
            for name, value in values.items():
                late[name].copy_(value)
        results = run(CASE, late)
        stream.synchronize()
    torch.testing.assert_close(results, expected, **EXACT)


def test_the_caller_sees_the_results_of_all_lanes():
    leaves = draw()
    expected = run(CASE, leaves)
    with torch.cuda.stream(torch.cuda.Stream()), dcn.force_algorithm("im2col_gemm", 4, 100):
        long_work()
        results = [value * 1 for value in run(CASE, leaves)]  # read on the caller's stream
        torch.cuda.current_stream().synchronize()
    torch.testing.assert_close(results, expected, **EXACT)


def capture(case, leaves, grad):
    """A graph of forward and backward, and its results' memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(case, leaves, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(case, leaves, grad)
    return graph, results


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("forced", [None, (1, 200), (3, 200)], ids=["planned", "1 lane", "3 lanes"])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_replayed_graph_equals_eager(forced, dtype, form):
    leaves = draw(dtype=dtype)
    leaves["input"] = leaves["input"].detach().contiguous(memory_format=form).requires_grad_()
    grad = torch.randn(5, 24, 19, 23, device="cuda").to(dtype)
    scope = dcn.force_algorithm("im2col_gemm", *forced) if forced else contextlib.nullcontext()
    with scope:
        graph, results = capture(CASE, leaves, grad)
        for factor in (1.0, -0.5, 2.0):
            with torch.no_grad():
                leaves["input"].mul_(factor)
                leaves["offset"].mul_(0.75)
                grad.mul_(factor)
            graph.replay()
            expected = run(CASE, leaves, grad)
            for name, replayed, eager in zip(("output", *LEAVES), results, expected, strict=True):
                if name == "input":  # atomics
                    tolerance = EXACT if dtype == torch.float64 else {}
                    torch.testing.assert_close(replayed, eager, **tolerance)
                else:
                    assert torch.equal(replayed, eager), name


def test_eight_threads_on_their_own_streams():
    cases = [CASE, named("1 group of 64"), named("16 groups of 8"), named("odd map")]
    calls = [(cases[i % 4], leaves_of_case(cases[i % 4], i)) for i in range(8)]
    expected = [run(*call) for call in calls]
    torch.cuda.synchronize()
    results, failures = [None] * 8, []

    def work(i: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(20):
                    results[i] = run(*calls[i])
                torch.cuda.current_stream().synchronize()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    torch.testing.assert_close(results, expected, **EXACT)


def leaves_of_case(case: Case, seed: int):
    tensors = case.tensors(device="cuda")
    tensors["input"] = tensors["input"] * (seed + 1)
    return leaves_of({name: value for name, value in tensors.items() if value is not None})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_training_does_not_leak(dtype):
    leaves = draw(dtype=dtype)
    optimizer = torch.optim.SGD(list(leaves.values()), lr=1e-6)

    def steps(count: int) -> tuple[int, int]:
        for _ in range(count):
            optimizer.zero_grad()
            dcn.deform_conv2d(**leaves, **CASE.geometry).float().square().mean().backward()
            optimizer.step()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    assert steps(20) == steps(180)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 1000])
def test_any_im2col_step_gives_the_same(step):
    tensors = CASE.tensors(device="cuda")
    arguments = CASE.arguments(tensors)
    expected = torch.ops.dcn.deform_conv2d(*arguments)
    out = torch.ops.dcn.deform_conv2d(*arguments, step)
    assert dcn.last_plan().chunk_pixels == min(step, 5) * 19 * 23
    torch.testing.assert_close(out, expected, **EXACT)
    backward = CASE.backward_arguments(torch.ones_like(out), tensors)
    expected = torch.ops.dcn.deform_conv2d_backward(*backward, [True] * 5)
    grads = torch.ops.dcn.deform_conv2d_backward(*backward, [True] * 5, step)
    assert dcn.last_plan().chunk_pixels == min(step, 5) * 19 * 23
    torch.testing.assert_close(grads, expected, **EXACT)


def test_the_backward_walks_in_the_steps_of_the_forward():
    leaves = draw()
    out = torch.ops.dcn.deform_conv2d(*CASE.arguments(leaves), 2)
    out.sum().backward()
    assert dcn.last_plan().chunks == 3


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk_pixels", [1, 37, 256, 1000, 1 << 30])
def test_any_number_of_lanes_gives_the_same(lanes, chunk_pixels):
    case = CASE if chunk_pixels > 1 else named("plain")
    leaves = draw(case)
    expected = run(case, leaves)
    with dcn.force_algorithm("im2col_gemm", lanes=lanes, chunk_pixels=chunk_pixels):
        results = run(case, leaves)
    pixels = case.n * case.output_size[0] * case.output_size[1]
    plan = dcn.last_plan()
    assert plan.chunk_pixels == min(chunk_pixels, pixels)
    assert plan.lanes == min(lanes, plan.chunks)
    torch.testing.assert_close(results, expected, **EXACT)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_the_same_bits_with_the_same_lanes(lanes):
    """cuBLAS workspaces are a lane's own, and partial sums are added in a fixed order."""
    leaves = draw(dtype=torch.float32)
    with dcn.force_algorithm("im2col_gemm", lanes=lanes, chunk_pixels=128):
        first = run(CASE, leaves)
        for _ in range(10):
            again = run(CASE, leaves)
            for name, a, b in zip(("output", *LEAVES), first, again, strict=True):
                assert name == "input" or torch.equal(a, b), name


@contextlib.contextmanager
def memory_limit(extra_bytes: int):
    """Lets PyTorch's allocator take `extra_bytes` more than it holds now."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + extra_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_out_of_memory_leaves_the_process_working(pass_):
    """The columns of four lanes (600 MB) do not fit, what else the call needs does."""
    case = Case("", n=4, c=64, size=(256, 256), k=64)
    leaves = draw(case, torch.float32)
    expected = run(case, leaves)
    scope = dcn.force_algorithm("im2col_gemm", lanes=4, chunk_pixels=256 * 256)
    if pass_ == "forward":
        with memory_limit(350 << 20), scope, pytest.raises(torch.OutOfMemoryError):
            dcn.deform_conv2d(**leaves, **case.geometry)
    else:
        with scope:
            out = dcn.deform_conv2d(**leaves, **case.geometry)
        with memory_limit(350 << 20), pytest.raises(torch.OutOfMemoryError):
            out.sum().backward()
    results = run(case, leaves)
    for name, a, b in zip(("output", *LEAVES), results, expected, strict=True):
        tolerance = {"rtol": 1e-5, "atol": 1e-5 * b.abs().max().item()}
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_nothing_waits_for_the_device():
    leaves = draw(dtype=torch.float16)
    run(CASE, leaves)  # what happens once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = dcn.deform_conv2d(**leaves, **CASE.geometry)
        gradients(out, leaves, torch.ones_like(out))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_calls_return_before_the_device_is_done():
    leaves = draw(dtype=torch.float16)
    run(CASE, leaves)
    torch.cuda.synchronize()
    long_work()
    run(CASE, leaves, torch.ones(5, 24, 19, 23, dtype=torch.float16, device="cuda"))
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_memory_beyond_inputs_and_outputs(layer):
    """At most 64 MiB in channels_last; the f32 sums of the input gradient are apart."""
    case = Case(
        layer.name, n=layer.N, c=layer.C, size=(layer.H, layer.W), k=layer.K,
        offset_groups=layer.offset_groups,
    )  # fmt: skip
    leaves = draw(case, torch.float16)
    leaves["input"] = leaves["input"].detach().to(memory_format=torch.channels_last)
    leaves["input"].requires_grad_()
    grad = torch.randn(case.n, case.k, *case.output_size, dtype=torch.float16, device="cuda")
    grad = grad.to(memory_format=torch.channels_last)
    run(case, leaves, grad)
    torch.cuda.synchronize()

    def peak(function):
        before = requested_bytes("current")
        torch.cuda.reset_peak_memory_stats()
        results = function()
        torch.cuda.synchronize()
        kept = sum(tensor.numel() * tensor.element_size() for tensor in results)
        return results, requested_bytes("peak") - before - kept

    (out,), extra = peak(lambda: [dcn.deform_conv2d(**leaves, **case.geometry)])
    assert extra <= 64 << 20, f"forward: {extra / 2**20:.0f} MiB"
    _, extra = peak(lambda: gradients(out, leaves, grad))
    extra -= dcn.last_plan().accumulator_bytes
    assert extra <= 64 << 20, f"backward: {extra / 2**20:.0f} MiB"


def test_images_beyond_32_bits():
    """The base of an image needs 64 bits; the last image equals the same one alone."""
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        pytest.skip("needs 48 GiB of free device memory")
    images, channels, size = 36, 64, 1024  # 2.4e9 pixels x channels
    half = {"dtype": torch.float16, "device": "cuda"}
    input = torch.randn(images, size, size, channels, **half).permute(0, 3, 1, 2)
    offset = torch.randn(images, 2, size, size, **half)
    weight = torch.randn(8, channels, 1, 1, **half)
    alone = [tensor[-1:].clone().requires_grad_() for tensor in (input, offset)]
    both = [input.requires_grad_(), offset.requires_grad_()]
    outs = [dcn.deform_conv2d(*tensors, weight) for tensors in (both, alone)]
    tolerance = {"rtol": 1e-2, "atol": 1e-2}  # of values around 10; another image is far away
    torch.testing.assert_close(outs[0][-1:], outs[1], **tolerance)
    grads = [torch.autograd.grad(out, leaves, torch.ones_like(out))
             for out, leaves in zip(outs, (both, alone), strict=True)]  # fmt: skip
    for whole, last in zip(*grads, strict=True):
        torch.testing.assert_close(whole[-1:], last, **tolerance)
    assert (outs[0][0] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_runs_in_16_bits_with_f32_offsets(dtype):
    leaves = draw(dtype=torch.float32)
    wide = {name: value.detach().double().requires_grad_() for name, value in leaves.items()}
    with torch.autocast("cuda", dtype):
        out = dcn.deform_conv2d(**leaves, **CASE.geometry)
    assert out.dtype == dtype
    truth = dcn.deform_conv2d(**wide, **CASE.geometry)
    grads = gradients(out, leaves, torch.ones_like(out))
    expected = gradients(truth, wide, torch.ones_like(truth))
    for name, value, exact in zip(LEAVES, grads, expected, strict=True):
        assert value.dtype == torch.float32, name
        error = (value.double() - exact).abs().max() / exact.abs().max()
        assert error < 8 * torch.finfo(dtype).eps, f"{name}: {error:.2g}"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_is_current():
    expected = [value.cpu() for value in run(CASE, draw(device="cuda:0"))]
    leaves = draw(device="cuda:1")
    with torch.cuda.device(0):
        results = run(CASE, leaves)
        assert torch.cuda.current_device() == 0
        with dcn.force_algorithm("im2col_gemm", lanes=3, chunk_pixels=128):
            forked = run(CASE, leaves)
    assert all(value.device == torch.device("cuda:1") for value in results + forked)
    torch.testing.assert_close([value.cpu() for value in results], expected, **EXACT)
    torch.testing.assert_close([value.cpu() for value in forked], expected, **EXACT)
