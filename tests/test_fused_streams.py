"""The fused forward pass among others: the same bits each run, graphs, streams, threads."""

import threading

import pytest
import torch
from cases import requested_bytes
from fused_cases import (
    EACH_ARITHMETIC,
    FEW,
    LAYOUTS,
    SMALL,
    STURDY,
    choices,
    draw,
    forced_plan,
    in_layout,
    needs_gpu,
    run,
    sm80_tiles,
    tf32_as,
)

import dcn

pytestmark = needs_gpu

EACH_OF_FEW = pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)


def splits(case, kind):
    """One tile for each split, so that tests of what a split changes stay short; and one of
    fprop_sm80, whose weights come another way.
    """
    first = {"sm80": (sm80_tiles(case, kind)[0], 1)}
    for tile, split_k in choices(case, kind):
        first.setdefault(split_k, (tile, split_k))
    assert len(first) > 2  # the case is small enough for a split
    return list(first.values())


def long_work() -> None:
    """Keeps the current stream busy for tens of milliseconds."""
    torch.cuda._sleep(50_000_000)


def call(case, tensors):
    """Without a look at the plan, which is the latest of any thread."""
    return dcn.deform_conv2d(**tensors, **case.geometry)


@EACH_OF_FEW
@EACH_ARITHMETIC
def test_the_same_bits_each_run(case, kind):
    tensors = draw(case, kind)
    for tile, split_k in choices(case, kind):
        first = run(case, kind, tensors, tile, split_k)
        for _ in range(10):
            again = run(case, kind, tensors, tile, split_k)
            assert torch.equal(first, again), (tile, split_k)


@EACH_ARITHMETIC
def test_the_same_bits_beside_other_work(kind):
    """CTAs start and end in another order while another stream keeps processors busy."""
    tensors = draw(STURDY, kind)
    busy, product = torch.cuda.Stream(), torch.rand(2048, 2048, device="cuda")
    for tile, split_k in splits(STURDY, kind):
        first = run(STURDY, kind, tensors, tile, split_k)
        torch.cuda.synchronize()
        with torch.cuda.stream(busy):
            for _ in range(20):
                product @ product
        for _ in range(20):
            assert torch.equal(run(STURDY, kind, tensors, tile, split_k), first), (tile, split_k)
    torch.cuda.synchronize()


@EACH_ARITHMETIC
def test_deterministic_mode_neither_refuses_nor_changes(kind):
    tensors = draw(STURDY, kind)
    expected = run(STURDY, kind, tensors)
    torch.use_deterministic_algorithms(True)
    assert torch.equal(run(STURDY, kind, tensors), expected)


@EACH_OF_FEW
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@EACH_ARITHMETIC
def test_a_replayed_graph_equals_eager(case, layout, kind):
    """Also after every input has changed: the weight is packed again in the graph."""
    tensors = in_layout(draw(case, kind), layout)
    for tile, split_k in splits(case, kind):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run(case, kind, tensors, tile, split_k)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = run(case, kind, tensors, tile, split_k)
        for factor in (1.0, -0.5, 2.0):
            for name, power in (("input", 1), ("weight", 1), ("bias", 1), ("offset", 2)):
                tensors[name].mul_(factor**power)
            out.fill_(torch.nan)
            for _ in range(3):
                graph.replay()
            expected = run(case, kind, tensors, tile, split_k)
            assert torch.equal(out, expected), (tile, split_k, factor)


@EACH_ARITHMETIC
def test_two_calls_in_one_graph(kind):
    """The second call's kernels read what the first one's write."""
    tensors = draw(SMALL, kind)

    def chain(tile, split_k):
        first = run(SMALL, kind, tensors, tile, split_k)
        return run(SMALL, kind, tensors | {"input": first * 0.05}, tile, split_k)

    for tile, split_k in splits(SMALL, kind):
        expected = chain(tile, split_k)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = chain(tile, split_k)
        for _ in range(5):
            out.fill_(torch.nan)
            graph.replay()
            assert torch.equal(out, expected), (tile, split_k)


@EACH_OF_FEW
@EACH_ARITHMETIC
def test_work_is_queued_on_the_current_stream(case, kind):
    """Launched on another stream, kernels would read the inputs before they are written."""
    values = draw(case, kind)
    for tile, split_k in splits(case, kind):
        expected = run(case, kind, values, tile, split_k)
        late = {name: torch.zeros_like(value) for name, value in values.items()}
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            long_work()
            for name, value in values.items():
                late[name].copy_(value)
            out = run(case, kind, late, tile, split_k) * 1  # read on the caller's stream
            torch.cuda.current_stream().synchronize()
        assert torch.equal(out, expected), (tile, split_k)


@EACH_ARITHMETIC
def test_inputs_written_by_the_kernel_before(kind):
    """Kernels may start before the one that packs the weight ends, not before what comes earlier;
    nor may the next call's packing overwrite a weight that is still read.
    """
    tensors = draw(SMALL, kind)
    for tile, split_k in splits(SMALL, kind):
        expected = [
            run(SMALL, kind, tensors | {name: tensors[name] + 0.5}, tile, split_k)
            for name in tensors
        ]
        torch.cuda.synchronize()
        long_work()  # so that everything below is queued back to back
        outs = [
            run(SMALL, kind, tensors | {name: tensors[name] + 0.5}, tile, split_k)
            for name in tensors
        ]
        for name, out, right in zip(tensors, outs, expected, strict=True):
            assert torch.equal(out, right), (name, tile, split_k)


@EACH_ARITHMETIC
def test_four_threads_on_their_own_streams(kind):
    """Their kernels share the device: CTAs of a split that wait for one another must all run."""
    calls = []
    for i in range(4):
        case = FEW[i % len(FEW)]
        tensors = draw(case, kind)
        tensors["input"] = tensors["input"] * (i + 1)
        chosen = splits(case, kind)
        calls.append((case, tensors, chosen, [run(case, kind, tensors, *each) for each in chosen]))
    torch.cuda.synchronize()
    failures = []

    def work(case, tensors, chosen, expected) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(25):
                    outs = []
                    for tile, split_k in chosen:
                        with dcn.force_algorithm("fused", tile=tile, split_k=split_k):
                            outs.append(call(case, tensors))
                    torch.cuda.current_stream().synchronize()
                    for each, out, right in zip(chosen, outs, expected, strict=True):
                        if not torch.equal(out, right):
                            failures.append((case.name, each))
        except Exception as error:
            failures.append(error)

    with tf32_as(kind):
        threads = [threading.Thread(target=work, args=each) for each in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures[:5]


def test_nothing_waits_for_the_device():
    kind = next(k for k in EACH_ARITHMETIC.args[1] if k.name == "f16")
    tensors = draw(STURDY, kind)
    every = choices(STURDY, kind)
    for each in every:
        run(STURDY, kind, tensors, *each)  # what happens once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for each in every:
            run(STURDY, kind, tensors, *each)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    long_work()
    run(STURDY, kind, tensors)
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()


@EACH_ARITHMETIC
def test_memory_is_that_of_the_plan(kind):
    """In channels_last with whole vectors of channels there is no copy of the input."""
    tensors = in_layout(draw(STURDY, kind), torch.channels_last)
    for tile, split_k in choices(STURDY, kind):
        run(STURDY, kind, tensors, tile, split_k)
        torch.cuda.synchronize()
        before = requested_bytes("current")
        torch.cuda.reset_peak_memory_stats()
        out = run(STURDY, kind, tensors, tile, split_k)
        torch.cuda.synchronize()
        extra = requested_bytes("peak") - before - out.numel() * out.element_size()
        planned = forced_plan(STURDY, kind, tile, split_k).workspace_bytes
        assert extra <= planned + 4096, (tile, split_k, extra, planned)  # roundings
        del out
        assert requested_bytes("current") == before
