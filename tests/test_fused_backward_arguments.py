"""The backward pass of `fused` with arguments as callers have them: strides, views, requires_grad.

However an argument lies in memory, the gradients of fused have the same bits.
"""

import pytest
import torch
from cases import LEAVES, Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    FEW,
    LAYOUTS,
    STURDY,
    draw,
    in_layout,
    needs_gpu,
    poisoned,
    tf32_as,
)
from fused_gradients import (
    Allowance,
    drawing,
    gradient_of_output,
    leaves_of,
    leftovers,
    repeatable,
    run_backward,
    same,
    why_not_backward,
)
from test_fused_arguments import VIEWS, with_storage_offset

import dcn

pytestmark = needs_gpu

EACH_OF_FEW = pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)


def differing(case, kind, ours, expected):
    """The bits are fused's; those of a GEMM of cuBLAS change with the alignment of its operands."""
    legal = not why_not_backward(case, kind, tuple(ours))
    return same(ours, expected, repeatable(case, kind, ours, list(ours)) if legal else [], kind)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["input", "weight", "offset", "mask", "grad"])
@EACH_OF_FEW
@EACH_ARITHMETIC
def test_any_strides_give_the_same_bits(case, name, view, kind):
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    expected = run_backward(case, kind, tensors, grad)
    if name == "grad":
        viewed, changed = VIEWS[view](grad), tensors
        assert torch.equal(viewed, grad)
    else:
        viewed, changed = grad, tensors | {name: VIEWS[view](tensors[name])}
        assert torch.equal(changed[name], tensors[name])
    with leftovers():
        ours = run_backward(case, kind, changed, viewed)
    assert not (bad := differing(case, kind, ours, expected)), bad


@pytest.mark.parametrize("name", ["input", "weight", "offset", "mask", "grad"])
@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (3,), (2, 3), (0, 1, 2, 3)], ids=str)
@EACH_ARITHMETIC
def test_expanded_arguments_give_the_same_bits(name, dims, kind):
    """An incoming gradient is one number for all outputs after `out.sum()`."""
    tensors, grad = draw(STURDY, kind), gradient_of_output(STURDY, kind)
    every = tensors | {"grad": grad}
    one = every[name]
    for dim in dims:
        one = one.narrow(dim, 0, 1)
    results = []
    for viewed in (one.expand_as(every[name]), one.expand_as(every[name]).contiguous()):
        changed = every | {name: viewed}
        results.append(run_backward(STURDY, kind, changed, changed.pop("grad")))
    assert not (bad := differing(STURDY, kind, *results)), bad


@EACH_ARITHMETIC
def test_every_argument_not_aligned_at_once(kind):
    tensors, grad = draw(STURDY, kind), gradient_of_output(STURDY, kind)
    for layout in LAYOUTS:
        last = in_layout(tensors, layout)
        expected = run_backward(STURDY, kind, last, grad)
        moved = {name: with_storage_offset(value) for name, value in last.items()}
        ours = run_backward(STURDY, kind, moved, with_storage_offset(grad))
        assert not (bad := differing(STURDY, kind, ours, expected)), (layout, bad)
        assert ours["input"].is_contiguous(memory_format=layout)


@EACH_OF_FEW
@EACH_ARITHMETIC
def test_every_memory_format_gives_the_same_bits(case, kind):
    """Of input, weight and incoming gradient; gradients have the format of what they are of."""
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    expected = run_backward(case, kind, tensors, grad)
    for of_input in LAYOUTS:
        for of_weight in LAYOUTS:
            for of_grad in LAYOUTS:
                made = in_layout(tensors, of_input)
                made["weight"] = made["weight"].contiguous(memory_format=of_weight)
                moved = grad.contiguous(memory_format=of_grad)
                ours = run_backward(case, kind, made, moved)
                bad = differing(case, kind, ours, expected)
                assert not bad, (of_input, of_weight, of_grad, bad)
                assert ours["input"].is_contiguous(memory_format=of_input)
                assert ours["weight"].is_contiguous(memory_format=of_weight)
                assert ours["offset"].is_contiguous() and ours["mask"].is_contiguous()


@EACH_OF_FEW
@EACH_ARITHMETIC
def test_arguments_are_not_written(case, kind):
    tensors, grad = draw(case, kind), gradient_of_output(case, kind)
    for layout in LAYOUTS:
        made = in_layout(tensors, layout)
        before = {name: value.clone() for name, value in made.items()}
        moved = grad.contiguous(memory_format=layout)
        run_backward(case, kind, made, moved)
        assert torch.equal(moved, grad)
        for name, value in made.items():
            assert torch.equal(value, before[name]), name


SUBSETS = [(name,) for name in LEAVES] + [
    ("input", "offset", "mask"),
    ("weight", "bias"),
    ("weight", "offset", "mask", "bias"),
]


@pytest.mark.parametrize("names", SUBSETS, ids=str)
@EACH_ARITHMETIC
def test_autograd_gives_gradients_to_those_that_require_them(names, kind):
    tensors, grad = draw(STURDY, kind), gradient_of_output(STURDY, kind)
    leaves = {name: value.requires_grad_(name in names) for name, value in tensors.items()}
    with tf32_as(kind):
        with dcn.force_algorithm("fused"):
            out = dcn.deform_conv2d(**leaves, **STURDY.geometry)
        out.backward(grad)
    legal = not why_not_backward(STURDY, kind, names)
    assert (dcn.last_plan().algorithm == "fused") == legal
    values = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert set(values) == set(names)
    assert not (bad := Allowance(STURDY, kind, drawing(STURDY, kind)).excesses(values)), bad


@EACH_ARITHMETIC
def test_a_sum_of_the_outputs(kind):
    """Its incoming gradient is expanded from one number, and strides are 0."""
    tensors = draw(STURDY, kind)
    leaves = leaves_of(tensors)
    with tf32_as(kind), dcn.force_algorithm("fused"):
        dcn.deform_conv2d(**leaves, **STURDY.geometry).sum().backward()
    ones = torch.ones(STURDY.n, STURDY.k, *STURDY.output_size, device="cuda", dtype=kind.dtype)
    expected = run_backward(STURDY, kind, tensors, ones)
    ours = {name: leaf.grad for name, leaf in leaves.items()}
    assert not (bad := differing(STURDY, kind, ours, expected)), bad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_gradients_of_the_parameters_dtype(dtype):
    """f32 parameters and offsets beside an image of 16 bits."""
    f32, narrow = (
        next(kind for kind in ARITHMETICS if kind.dtype == each and not kind.tf32)
        for each in (torch.float32, dtype)
    )
    tensors, grad = draw(STURDY, f32), gradient_of_output(STURDY, narrow)
    leaves = leaves_of(tensors)
    with torch.autocast("cuda", dtype), dcn.force_algorithm("fused"):
        out = dcn.deform_conv2d(**leaves, **STURDY.geometry)
    out.backward(grad)
    by_hand = {name: value.to(dtype) for name, value in tensors.items()}
    by_hand["offset"] = tensors["offset"]
    expected = run_backward(STURDY, narrow, by_hand, grad)
    ours = {name: leaf.grad for name, leaf in leaves.items()}
    assert all(value.dtype == torch.float32 for value in ours.values())
    wide = {name: value.float() for name, value in expected.items()}
    assert not (bad := differing(STURDY, narrow, ours, wide)), bad


@EACH_ARITHMETIC
def test_an_incoming_gradient_that_nobody_gave(kind):
    """Outputs without use have a gradient of zeros, and so has everything else."""
    case = Case("", n=2, c=64, size=(5, 7), k=24)
    tensors = draw(case, kind)
    zeros = torch.zeros(case.n, case.k, *case.output_size, device="cuda", dtype=kind.dtype)
    with poisoned():
        values = run_backward(case, kind, tensors, zeros)
    assert all((value == 0).all() for value in values.values())
