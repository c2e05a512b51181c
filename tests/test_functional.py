"""`dcn.deform_conv2d` as a drop-in for torchvision's: signature, inference, messages, gradients."""

import inspect
from unittest import mock

import pytest
import torch
from cases import CASES, Case

import dcn

PLAIN = CASES[0]


def leaves(tensors):
    return [tensor for tensor in tensors.values() if tensor is not None]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_gradients_are_those_of_the_reference(case, device):
    results = []
    for function in (dcn.deform_conv2d, dcn.reference.deform_conv2d):
        tensors = case.tensors(device=device, requires_grad=True)
        out = function(**tensors, **case.geometry)
        out.backward(torch.linspace(-1, 1, out.numel()).to(out).reshape(out.shape))
        results.append([out.detach(), *(tensor.grad for tensor in leaves(tensors))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


def test_the_signature_is_that_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    theirs = inspect.signature(torchvision.ops.deform_conv2d).parameters
    ours = inspect.signature(dcn.deform_conv2d).parameters
    assert list(ours) == list(theirs)
    for name in ("bias", "mask"):
        assert ours[name].default is theirs[name].default is None


@pytest.mark.parametrize("stride, padding, dilation", [(1, 1, 1), (2, 0, 1), (1, 2, 2)])
def test_an_int_means_a_pair_of_it(stride, padding, dilation):
    case = Case("", stride=(stride,) * 2, padding=(padding,) * 2, dilation=(dilation,) * 2)
    tensors = case.tensors()
    pairs = dcn.deform_conv2d(**tensors, **case.geometry)
    input, offset, weight, bias, mask = tensors.values()
    ints = dcn.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
    lists = dcn.deform_conv2d(**tensors, **{k: list(v) for k, v in case.geometry.items()})
    assert torch.equal(pairs, ints) and torch.equal(pairs, lists)


def test_groups_follow_from_the_input():
    """A weight for C/G channels serves an input of more: some published models rely on it."""
    case = Case("", c=12, k=6, groups=3, offset_groups=2)
    tensors = case.tensors()
    out = dcn.deform_conv2d(**tensors, **case.geometry)
    for group in range(3):
        part = slice(group * 2, group * 2 + 2)
        weight = torch.zeros(2, 12, 3, 3, dtype=torch.float64)
        weight[:, group * 4 : group * 4 + 4] = tensors["weight"][part]
        alone = tensors | {"weight": weight, "bias": tensors["bias"][part]}
        expected = dcn.deform_conv2d(**alone, **case.geometry)
        torch.testing.assert_close(out[:, part], expected)


BAD_CALLS = [
    ({"input": (4, 7, 6)}, "of rank 4, but got ranks 3, 4 and 4"),
    ({"offset": (18, 7, 6)}, "of rank 4, but got ranks 4, 3 and 4"),
    ({"weight": (6, 4, 3)}, "of rank 4, but got ranks 4, 4 and 3"),
    ({"weight": (6, 0, 3, 3)}, "without zero sizes, but got weight_c: 0 weight_h: 3"),
    ({"weight": (6, 4, 0, 3)}, "weight_c: 4 weight_h: 0 weight_w: 3"),
    ({"weight": (6, 5, 3, 3)}, r"a multiple of weight.shape\[1\] = 5, but got 4"),
    ({"weight": (6, 3, 3, 3)}, r"a multiple of weight.shape\[1\] = 3, but got 4"),
    ({"input": (2, 0, 7, 6)}, r"a multiple of weight.shape\[1\] = 4, but got 0"),
    ({"offset": (2, 2, 7, 6)}, "the shape of the offset tensor at dimension 1 is not valid"),
    ({"offset": (2, 0, 7, 6)}, r"weight.size\[3\] = 18, but got offset.shape\[1\] = 0"),
    ({"offset": (2, 20, 7, 6)}, r"weight.size\[3\] = 18, but got offset.shape\[1\] = 20"),
    ({"mask": (2, 2, 7, 6)}, r"mask.shape\[1\] is not valid: got: 2 expected: 9"),
    ({"offset": (1, 18, 7, 6)}, "invalid batch size of offset"),
    ({"mask": (1, 9, 7, 6)}, "invalid batch size of mask"),
    ({"offset": (2, 18, 6, 6)}, r"offset output dims: \(6, 6\) - computed output dims: \(7, 6\)"),
    ({"mask": (2, 9, 7, 5)}, r"mask output dims: \(7, 5\) - computed output dims: \(7, 6\)"),
    ({"input": (2, 4, 1, 1), "padding": 0}, "Calculated output size too small"),
]


@pytest.mark.parametrize("change, message", BAD_CALLS, ids=[message for _, message in BAD_CALLS])
def test_what_does_not_fit_is_refused_with_both_values(change, message, device):
    call = PLAIN.tensors(torch.float32, device) | PLAIN.geometry
    for name, value in change.items():
        call[name] = torch.zeros(value, device=device) if isinstance(value, tuple) else value
    with pytest.raises(RuntimeError, match=message):
        dcn.deform_conv2d(**call)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_a_triple_is_no_pair(name):
    with pytest.raises(ValueError, match=f"expected {name} to be an int or a pair, but got"):
        dcn.deform_conv2d(**PLAIN.tensors(), **(PLAIN.geometry | {name: (1, 1, 1)}))


@pytest.mark.parametrize("case", CASES[:5], ids=lambda case: case.name)
def test_the_function_class_gives_the_same(case, device):
    groups = (case.groups, case.offset_groups)
    results = []
    for through_class in (False, True):
        tensors = case.tensors(device=device, requires_grad=True)
        if through_class:
            order = [tensors[name] for name in ("input", "weight", "offset", "mask", "bias")]
            out = dcn.DeformConv2dFunction.apply(*order, *case.geometry.values(), *groups)
        else:
            out = dcn.deform_conv2d(**tensors, **case.geometry)
        out.sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in leaves(tensors))])
    for direct, through_class in zip(*results, strict=True):
        # Atomic additions leave the last bits of the input gradient open on a GPU.
        tolerance = {} if device == "cuda" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(direct, through_class, **tolerance)


def test_the_function_class_takes_an_im2col_step():
    tensors = PLAIN.tensors(requires_grad=True)
    order = [tensors[name] for name in ("input", "weight", "offset", "mask", "bias")]
    out = dcn.DeformConv2dFunction.apply(*order, *PLAIN.geometry.values(), 1, 1, 1)
    out.sum().backward()
    assert tensors["weight"].grad is not None


def test_the_function_class_computes_what_is_needed():
    tensors = PLAIN.tensors() | {"mask": None, "bias": None}
    tensors["offset"].requires_grad_()
    order = [tensors[name] for name in ("input", "weight", "offset", "mask", "bias")]
    out = dcn.DeformConv2dFunction.apply(*order, *PLAIN.geometry.values(), 1, 1)
    name = "deform_conv2d_backward"
    with mock.patch.object(torch.ops.dcn, name, wraps=getattr(torch.ops.dcn, name)) as backward:
        out.sum().backward()
    assert backward.call_args.args[-1] == [False, False, True, False, False]
    assert tensors["offset"].grad is not None and tensors["input"].grad is None


def test_the_function_class_under_autocast():
    tensors = PLAIN.tensors(torch.float32, requires_grad=True)
    order = [tensors[name] for name in ("input", "weight", "offset", "mask", "bias")]
    with torch.autocast("cpu", torch.bfloat16):
        out = dcn.DeformConv2dFunction.apply(*order, *PLAIN.geometry.values(), 1, 1)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(tensor.grad.dtype == torch.float32 for tensor in order)
