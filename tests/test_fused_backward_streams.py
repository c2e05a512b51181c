"""The backward pass of `fused` among others: the same bits each run, graphs, streams, threads."""

import threading
import warnings

import pytest
import torch
from cases import LEAVES, Case, requested_bytes
from fused_cases import (
    EACH_ARITHMETIC,
    FEW,
    LAYOUTS,
    SMALL,
    STURDY,
    draw,
    in_layout,
    needs_gpu,
    tf32_as,
)
from fused_gradients import (
    gradient_of_output,
    leaves_of,
    repeatable,
    run_backward,
    same,
    whole_1024ths,
    why_not_backward,
)

import dcn
from dcn.bench import clustered_offsets

pytestmark = needs_gpu

# Lists of samples that one CTA, or several, put in order.
LONG_LISTS = Case("long lists", n=2, c=64, size=(32, 40), k=64)
EACH = pytest.mark.parametrize("case", [*FEW, LONG_LISTS], ids=lambda case: case.name)


def call_of(case, kind, seed: int = 0):
    tensors = draw(case, kind, seed=seed)
    if case is LONG_LISTS:
        distance = torch.rand(tensors["offset"].shape, generator=torch.Generator().manual_seed(3))
        pixel = (case.size[0] // 2, case.size[1] // 2)
        offset = clustered_offsets(
            whole_1024ths(distance * 2 - 1), case.kernel, *case.geometry.values(), pixel
        )
        tensors["offset"] = offset.to(tensors["offset"])
    return tensors, gradient_of_output(case, kind, seed)


def differing(case, kind, tensors, ours, expected):
    return same(ours, expected, repeatable(case, kind, tensors, list(ours)), kind)


def long_work() -> None:
    """Keeps the current stream busy for tens of milliseconds."""
    torch.cuda._sleep(50_000_000)


@EACH
@EACH_ARITHMETIC
def test_the_same_bits_each_run(case, kind):
    tensors, grad = call_of(case, kind)
    first = run_backward(case, kind, tensors, grad)
    for _ in range(19):
        again = run_backward(case, kind, tensors, grad)
        assert not (bad := differing(case, kind, tensors, again, first)), bad


@EACH_ARITHMETIC
def test_the_same_bits_beside_other_work(kind):
    """CTAs start and end in another order while another stream keeps processors busy."""
    busy, product = torch.cuda.Stream(), torch.rand(2048, 2048, device="cuda")
    for case in (STURDY, LONG_LISTS):
        tensors, grad = call_of(case, kind)
        first = run_backward(case, kind, tensors, grad)
        torch.cuda.synchronize()
        with torch.cuda.stream(busy):
            for _ in range(20):
                product @ product
        for _ in range(20):
            again = run_backward(case, kind, tensors, grad)
            assert not (bad := differing(case, kind, tensors, again, first)), (case.name, bad)
    torch.cuda.synchronize()


@EACH
@EACH_ARITHMETIC
def test_deterministic_mode_keeps_its_word(case, kind):
    """No alert, the same bits each run, and where no other algorithm takes over, the usual ones."""
    tensors, grad = call_of(case, kind)
    expected = run_backward(case, kind, tensors, grad)
    usual = list(LEAVES) if not why_not_backward(case, kind, deterministic=True) else []
    torch.use_deterministic_algorithms(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = run_backward(case, kind, tensors, grad)
        assert dcn.last_plan().deterministic
        again = run_backward(case, kind, tensors, grad)
    assert not same(again, values, list(LEAVES), kind)
    assert not (bad := same(values, expected, usual, kind)), bad


@EACH
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@EACH_ARITHMETIC
def test_a_replayed_graph_equals_eager(case, layout, kind):
    """Also after every input has changed: lists and packed weights are made again in the graph."""
    tensors, grad = call_of(case, kind)
    tensors = in_layout(tensors, layout)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run_backward(case, kind, tensors, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values = run_backward(case, kind, tensors, grad)
    for factor in (1.0, -0.5, 2.0):
        for tensor in (tensors["input"], tensors["weight"], tensors["mask"], grad):
            tensor.mul_(factor)
        tensors["offset"].add_(factor - 1)
        for value in values.values():
            value.fill_(torch.nan)
        for _ in range(3):
            graph.replay()
        expected = run_backward(case, kind, tensors, grad)
        assert not (bad := differing(case, kind, tensors, values, expected)), (factor, bad)


@EACH_ARITHMETIC
def test_a_training_step_in_one_graph(kind):
    """Forward and backward twice in a row: each reads what the one before wrote."""
    tensors, grad = call_of(SMALL, kind)
    leaves = leaves_of(tensors)

    def chain():
        with dcn.force_algorithm("fused"):
            first = dcn.deform_conv2d(**leaves, **SMALL.geometry)
            out = dcn.deform_conv2d(**leaves | {"input": first * 0.05}, **SMALL.geometry)
        grads = torch.autograd.grad(out, [leaves[name] for name in LEAVES], grad)
        return dict(zip(LEAVES, grads, strict=True))

    with tf32_as(kind):
        expected = chain()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            values = chain()
        for _ in range(5):
            for value in values.values():
                value.fill_(torch.nan)
            graph.replay()
            # Where the input gradient is a sum in any order, all that follows from it is rounded.
            exact = list(LEAVES) if not why_not_backward(SMALL, kind) else []
            assert not (bad := same(values, expected, exact, kind)), bad


@EACH
@EACH_ARITHMETIC
def test_work_is_queued_on_the_current_stream(case, kind):
    """Launched on another stream, kernels would read the inputs before they are written."""
    values, grad = call_of(case, kind)
    expected = run_backward(case, kind, values, grad)
    late = {name: torch.zeros_like(value) for name, value in values.items()}
    late_grad = torch.zeros_like(grad)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        long_work()
        for name, value in values.items():
            late[name].copy_(value)
        late_grad.copy_(grad)
        ours = run_backward(case, kind, late, late_grad)
        ours = {name: value * 1 for name, value in ours.items()}  # read on the caller's stream
        torch.cuda.current_stream().synchronize()
    assert not (bad := differing(case, kind, values, ours, expected)), bad


@EACH_ARITHMETIC
def test_calls_back_to_back(kind):
    """A call's kernels neither start before the one ends that writes its arguments, nor write over
    what those of the call before still read, on any of their streams.
    """
    tensors, grad = call_of(SMALL, kind)

    def changed(name):
        return tensors | {name: tensors[name] + 0.5}

    names = [name for name in tensors if name != "bias"]
    expected = [run_backward(SMALL, kind, changed(name), grad) for name in names]
    torch.cuda.synchronize()
    long_work()  # so that everything below is queued
    ours = [run_backward(SMALL, kind, changed(name), grad) for name in names]
    for name, values, right in zip(names, ours, expected, strict=True):
        assert not (bad := differing(SMALL, kind, tensors, values, right)), (name, bad)


@EACH_ARITHMETIC
def test_four_threads_on_their_own_streams(kind):
    """Their kernels share the device: CTAs that wait for one another must all run."""
    calls = []
    for i in range(4):
        case = (*FEW, LONG_LISTS)[i]
        tensors, grad = call_of(case, kind, seed=i)
        calls.append((case, tensors, grad, run_backward(case, kind, tensors, grad)))
    torch.cuda.synchronize()
    failures = []

    def work(case, tensors, grad, expected) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(25):
                    with dcn.force_algorithm("fused"):
                        values = torch.ops.dcn.deform_conv2d_backward(
                            *case.backward_arguments(grad, tensors), [True] * 5
                        )
                    torch.cuda.current_stream().synchronize()
                    ours = dict(zip(LEAVES, values, strict=True))
                    if bad := differing(case, kind, tensors, ours, expected):
                        failures.append((case.name, bad))
        except Exception as error:
            failures.append(error)

    with tf32_as(kind):
        threads = [threading.Thread(target=work, args=each) for each in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures[:5]


@EACH_ARITHMETIC
def test_nothing_waits_for_the_device(kind):
    calls = [(case, *call_of(case, kind)) for case in (STURDY, LONG_LISTS)]
    for case, tensors, grad in calls:
        run_backward(case, kind, tensors, grad)  # what happens once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for case, tensors, grad in calls:
            run_backward(case, kind, tensors, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    long_work()
    for case, tensors, grad in calls:
        run_backward(case, kind, tensors, grad)
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()


@EACH
@EACH_ARITHMETIC
def test_memory_is_that_of_the_plan(case, kind):
    """In channels_last with whole vectors of channels nothing is copied."""
    reason = why_not_backward(case, kind)
    vector = 16 // kind.dtype.itemsize
    padded = any(channels // case.groups % vector for channels in (case.c, case.k))
    if reason or padded:
        pytest.skip(reason or "padded channels are a copy")
    tensors, grad = call_of(case, kind)
    tensors = in_layout(tensors, torch.channels_last)
    tensors["weight"] = tensors["weight"].contiguous(memory_format=torch.channels_last)
    grad = grad.contiguous(memory_format=torch.channels_last)
    run_backward(case, kind, tensors, grad)
    plan = dcn.last_plan()
    torch.cuda.synchronize()
    before = requested_bytes("current")
    torch.cuda.reset_peak_memory_stats()
    values = run_backward(case, kind, tensors, grad)
    torch.cuda.synchronize()
    results = sum(value.numel() * value.element_size() for value in values.values())
    extra = requested_bytes("peak") - before - results
    planned = plan.workspace_bytes + plan.accumulator_bytes
    assert extra <= planned + 16 * 512, (extra, planned)  # roundings
    del values
    assert requested_bytes("current") == before
