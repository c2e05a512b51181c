"""torchvision's function and module run on dcn while they are patched, and only then."""

import pytest
import torch

import dcn

torchvision = pytest.importorskip("torchvision")
from torchvision.ops import DeformConv2d, deform_conv2d  # noqa: E402  (before any patch)


def runs_on_dcn() -> bool:
    """torchvision has no bfloat16."""
    input, offset, weight = (
        torch.rand(shape).bfloat16() for shape in [(1, 2, 4, 4), (1, 18, 4, 4), (3, 2, 3, 3)]
    )
    try:
        return deform_conv2d(input, offset, weight, padding=1).dtype == torch.bfloat16
    except RuntimeError:  # NotImplementedError up to torchvision 0.26
        return False


@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients(use_mask, bias, device):
    layer = DeformConv2d(6, 4, (3, 1), (2, 1), (1, 0), (1, 2), groups=2, bias=bias).to(device)
    x, offset, mask = (
        torch.rand(shape, device=device, requires_grad=True)
        for shape in [(2, 6, 7, 6), (2, 12, 4, 6), (2, 6, 4, 6)]
    )
    leaves = [x, offset, *layer.parameters(), *([mask] if use_mask else [])]
    plain = layer(x, offset, mask if use_mask else None)
    grad = torch.rand_like(plain)
    expected = torch.autograd.grad(plain, leaves, grad)
    with dcn.patch_torchvision():
        assert runs_on_dcn()
        patched = layer(x, offset, mask if use_mask else None)
        direct = torchvision.ops.deform_conv2d(
            x, offset, layer.weight, layer.bias, (2, 1), (1, 0), (1, 2), mask if use_mask else None
        )
    got = torch.autograd.grad(patched, leaves, grad)
    torch.testing.assert_close(patched, plain)
    torch.testing.assert_close(direct, plain)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_dummy_mask_of_torchvision_is_no_mask():
    """Its zeros would make the output zero."""
    with dcn.patch_torchvision():
        out = deform_conv2d(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 1, 1))
    assert torch.equal(out, torch.ones(1, 1, 2, 2))


def test_undone_cleanly():
    before = torch.ops.torchvision.deform_conv2d
    with pytest.raises(ZeroDivisionError), dcn.patch_torchvision():
        assert torch.ops.torchvision.deform_conv2d is not before
        raise ZeroDivisionError
    assert torch.ops.torchvision.deform_conv2d is before and not runs_on_dcn()


def test_patches_may_overlap():
    before = torch.ops.torchvision.deform_conv2d
    first = dcn.patch_torchvision()
    second = dcn.patch_torchvision()
    first.undo()
    first.undo()  # a second call does nothing
    assert runs_on_dcn()
    with dcn.patch_torchvision():
        second.undo()
        assert runs_on_dcn()
    assert torch.ops.torchvision.deform_conv2d is before and not runs_on_dcn()


def test_who_asks_for_overloads_finds_those_of_torchvision():
    overload = torch.ops.torchvision.deform_conv2d.default
    with dcn.patch_torchvision():
        assert torch.ops.torchvision.deform_conv2d.default is overload


def test_compiled_code_follows():
    operators = []

    def backend(graph, inputs):
        operators.append(str(graph.graph.find_nodes(op="output")[0].all_input_nodes[0].target))
        return graph.forward

    layer = torch.compile(DeformConv2d(2, 3, 3, padding=1), backend=backend, fullgraph=True)
    inputs = torch.rand(1, 2, 4, 4), torch.rand(1, 18, 4, 4)
    plain = layer(*inputs)
    with dcn.patch_torchvision():
        torch.testing.assert_close(layer(*inputs), plain)
    layer(*inputs)
    assert operators == ["torchvision.deform_conv2d", "dcn.deform_conv2d"]
