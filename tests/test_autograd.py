"""Gradients as training asks for them: subsets, layouts, threads, memory that stays the same."""

import itertools
import threading

import pytest
import torch
from cases import LEAVES, Case, named
from torch.utils._python_dispatch import TorchDispatchMode

import dcn

CASE = Case("", n=2, c=8, k=6, groups=2, offset_groups=2)
SUBSETS = [
    subset for size in range(1, len(LEAVES) + 1) for subset in itertools.combinations(LEAVES, size)
]


class Masks(TorchDispatchMode):
    """Records the `output_mask` of every backward operator that runs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.dcn.deform_conv2d_backward.default:
            self.seen.append(tuple(args[10]))
        return func(*args, **(kwargs or {}))


def require(tensors, names):
    return {
        name: None if tensor is None else tensor.detach().requires_grad_(name in names)
        for name, tensor in tensors.items()
    }


def run(case, tensors, names=LEAVES, grad=None):
    """Output, and the gradients of `names` by name."""
    leaves = require(tensors, names)
    out = dcn.deform_conv2d(**leaves, **case.geometry)
    grad = torch.linspace(-1, 1, out.numel()).to(out).reshape(out.shape) if grad is None else grad
    grads = torch.autograd.grad(out, [leaves[name] for name in names], grad)
    return out.detach(), dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_only_what_requires_a_gradient_is_computed(names, device):
    tensors = CASE.tensors(device=device)
    expected = run(CASE, tensors)[1]
    leaves = require(tensors, names)
    out = dcn.deform_conv2d(**leaves, **CASE.geometry)
    with Masks() as masks:
        out.backward(torch.linspace(-1, 1, out.numel()).to(out).reshape(out.shape))
    assert masks.seen == [tuple(name in names for name in LEAVES)]
    for name in LEAVES:
        if name in names:
            torch.testing.assert_close(leaves[name].grad, expected[name], rtol=1e-12, atol=1e-12)
        else:
            assert leaves[name].grad is None, name


def test_only_what_is_asked_for_is_computed(device):
    """autograd.grad of one leaf, though all require gradients."""
    leaves = require(CASE.tensors(device=device), LEAVES)
    out = dcn.deform_conv2d(**leaves, **CASE.geometry)
    with Masks() as masks:
        torch.autograd.grad(out.sum(), [leaves["offset"]])
    assert masks.seen == [(False, False, True, False, False)]


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_the_backward_operator_returns_nothing_for_the_rest(names, device):
    tensors = CASE.tensors(device=device)
    grad = torch.ones(2, 6, 7, 6, dtype=torch.float64, device=device)
    wanted = [name in names for name in LEAVES]
    grads = torch.ops.dcn.deform_conv2d_backward(*CASE.backward_arguments(grad, tensors), wanted)
    for name, value in zip(LEAVES, grads, strict=True):
        assert value.shape == (tensors[name].shape if name in names else (0,)), name


def test_nothing_is_recorded_without_gradients(device):
    tensors = CASE.tensors(device=device)
    assert dcn.deform_conv2d(**tensors, **CASE.geometry).grad_fn is None
    leaves = require(tensors, LEAVES)
    with torch.no_grad():
        assert not dcn.deform_conv2d(**leaves, **CASE.geometry).requires_grad
    with torch.inference_mode():
        assert dcn.deform_conv2d(**leaves, **CASE.geometry).is_inference()


class NoGradient(torch.autograd.Function):
    """Passes its input on, and gives back an undefined gradient."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_an_undefined_gradient_gives_undefined_ones(device):
    leaves = require(CASE.tensors(device=device), LEAVES)
    out = NoGradient.apply(dcn.deform_conv2d(**leaves, **CASE.geometry))
    with Masks() as masks:
        out.sum().backward()
    assert masks.seen == []
    assert all(leaf.grad is None for leaf in leaves.values())


def test_create_graph_serves_those_who_differentiate_once(device):
    tensors = CASE.tensors(device=device)
    expected = run(CASE, tensors)[1]
    leaves = require(tensors, LEAVES)
    out = dcn.deform_conv2d(**leaves, **CASE.geometry)
    grad = torch.linspace(-1, 1, out.numel()).to(out).reshape(out.shape)
    out.backward(grad, create_graph=True)
    for name in LEAVES:
        torch.testing.assert_close(leaves[name].grad, expected[name], rtol=1e-12, atol=1e-12)
        leaves[name].grad = None  # a graph that holds its own leaves is a cycle


def test_backward_twice_through_a_kept_graph(device):
    leaves = require(CASE.tensors(device=device), LEAVES)
    out = dcn.deform_conv2d(**leaves, **CASE.geometry).sum()
    out.backward(retain_graph=True)
    once = {name: leaf.grad.clone() for name, leaf in leaves.items()}
    out.backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, 2 * once[name])
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_inputs_changed_in_place_are_noticed(device):
    leaves = require(CASE.tensors(device=device), LEAVES)
    moved = leaves["offset"] * 1
    out = dcn.deform_conv2d(**(leaves | {"offset": moved}), **CASE.geometry)
    moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# The same values in another arrangement of memory.
LAYOUTS = {
    "channels_last": lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() == 4 else t,
    "every other element": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "an inner part": lambda t: torch.nn.functional.pad(t, (2, 1))[..., 2:-1],
    "shifted by one element": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view_as(t),
    "channels last, sliced": lambda t: (
        torch.cat([t, t], 1).to(memory_format=torch.channels_last)[:, : t.shape[1]]
        if t.dim() == 4
        else t
    ),
}


@pytest.mark.parametrize("name", [*LEAVES, "grad", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_layouts_change_nothing(layout, name, dtype, device):
    case = Case("", n=2, c=16, k=6, groups=2, offset_groups=2)
    tensors = case.tensors(dtype, device)
    grad = torch.linspace(-1, 1, 2 * 6 * 42, device=device).to(dtype).reshape(2, 6, 7, 6)
    out, grads = run(case, tensors, grad=grad)
    arranged = {
        key: LAYOUTS[layout](value) if name in (key, "all") else value
        for key, value in (tensors | {"grad": grad}).items()
    }
    before = {key: value.clone() for key, value in arranged.items()}
    grad = arranged.pop("grad")
    other_out, other_grads = run(case, arranged, grad=grad)
    # Strides move no number, but may change the order of a sum.
    tolerance = {} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 64 * torch.finfo(dtype).eps}
    torch.testing.assert_close(other_out, out, **tolerance)
    for key in LEAVES:
        torch.testing.assert_close(other_grads[key], grads[key], **tolerance)
        assert torch.equal(arranged[key], before[key]), f"{key} was written to"


def test_expanded_tensors(device):
    case = Case("", n=3, c=4, k=6)
    small = case.tensors(device=device)
    tensors = {
        "input": small["input"][:1].expand(3, -1, -1, -1),
        "offset": small["offset"][:1, :, :1].expand(3, -1, 7, -1),
        "weight": small["weight"][:, :1].expand(-1, 4, -1, -1),
        "mask": small["mask"][:, :, :, :1].expand(-1, -1, -1, 6),
        "bias": small["bias"][:1].expand(6),
    }
    grad = torch.ones((), dtype=torch.float64, device=device).expand(3, 6, 7, 6)
    out, grads = run(case, tensors, grad=grad)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    expected_out, expected_grads = run(case, whole, grad=grad.contiguous())
    torch.testing.assert_close(out, expected_out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-12, atol=1e-12)


SHAPES = [
    Case("plain"),
    Case("one channel", c=1, k=1),
    Case("one pixel", size=(1, 1)),
    Case("one output channel", k=1),
    Case("no images", n=0),
    named("16 groups of 4"),
]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
def test_strides_are_those_that_the_fake_kernels_promise(case, dtype, channels_last, device):
    form = torch.channels_last if channels_last else torch.contiguous_format
    tensors = case.tensors(dtype, device)
    tensors["input"] = tensors["input"].to(memory_format=form)
    out = torch.ops.dcn.deform_conv2d(*case.arguments(tensors))
    grad = torch.ones_like(out, memory_format=torch.contiguous_format)
    grads = torch.ops.dcn.deform_conv2d_backward(
        *case.backward_arguments(grad, tensors), [True] * 5
    )
    meta = {name: None if tensor is None else tensor.to("meta") for name, tensor in tensors.items()}
    fake_out = torch.ops.dcn.deform_conv2d(*case.arguments(meta))
    fake_grads = torch.ops.dcn.deform_conv2d_backward(
        *case.backward_arguments(grad.to("meta"), meta), [True] * 5
    )
    names = ("output", *LEAVES)
    for name, real, fake in zip(names, (out, *grads), (fake_out, *fake_grads), strict=True):
        assert (real.shape, real.stride()) == (fake.shape, fake.stride()), name
        assert real.dtype == fake.dtype, name
    if case.name in ("plain", "16 groups of 4"):
        for tensor in (out, grads[0]):
            assert tensor.is_contiguous(memory_format=form)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eight_threads_give_what_one_gives(dtype, device):
    """Different tensors in each thread, many calls at once: nothing is shared by accident."""
    cases = [named("1 group of 64"), named("groups"), named("16 groups of 8"), named("7 images")]
    inputs = []
    for i in range(8):
        tensors = cases[i % 4].tensors(dtype, device)
        tensors["input"] = tensors["input"] * (i + 1)
        inputs.append((cases[i % 4], tensors))
    expected = [run(*call) for call in inputs]
    results, failures = [None] * 8, []

    def work(i: int) -> None:
        try:
            for _ in range(10):
                results[i] = run(*inputs[i])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    tolerance = {"rtol": 0, "atol": 4096 * torch.finfo(dtype).eps}
    for (out, grads), (expected_out, expected_grads) in zip(results, expected, strict=True):
        torch.testing.assert_close(out, expected_out, **tolerance)
        torch.testing.assert_close(grads, expected_grads, **tolerance)


def resident_bytes() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096


def test_training_does_not_leak():
    """200 steps use what 20 use. A leaked column buffer or input (2 MB) would make 360 MB."""
    case = Case("", n=2, c=64, size=(64, 64), k=16, kernel=(1, 1), padding=(0, 0))
    leaves = case.tensors(torch.float32, requires_grad=True)
    optimizer = torch.optim.SGD(list(leaves.values()), lr=1e-6)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            dcn.deform_conv2d(**leaves, **case.geometry).square().mean().backward()
            optimizer.step()

    steps(20)
    before = resident_bytes()
    steps(180)
    assert resident_bytes() - before < 32 << 20
