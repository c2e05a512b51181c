"""Second derivatives: of every argument by every other, as PyTorch's own operators have them."""

import dataclasses
import itertools

import pytest
import torch
from cases import CASES, DTYPES, LEAVES, Case
from test_autograd import Masks
from test_gradcheck import CASES as SMALL
from test_gradcheck import leaves_of

import dcn

GROUPS = Case("groups", n=2, c=4, size=(4, 3), k=4, groups=2, offset_groups=2)
NAMES = ("grad", *LEAVES)


def through_the_class(case: Case):
    """`dcn.DeformConv2dFunction` behind the arguments of `dcn.deform_conv2d`."""

    def function(*, stride, padding, dilation, **tensors):
        order = (tensors.get(name) for name in LEAVES)
        geometry = (stride, padding, dilation, case.groups, case.offset_groups)
        return dcn.DeformConv2dFunction.apply(*order, *geometry)

    return function


def pattern(like: torch.Tensor, phase: float) -> torch.Tensor:
    return torch.arange(like.numel(), dtype=torch.float64).add(phase).sin().to(like).view_as(like)


def second_derivatives(function, case: Case, tensors, of=LEAVES, by=NAMES, grad=None):
    """Gradients, by the arguments `by`, of the gradients of the arguments `of`: each times fixed
    numbers, all added up."""
    leaves = {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
    of = [name for name in of if name in leaves]
    by = [name for name in by if name in leaves or name == "grad"]
    for name in leaves:
        leaves[name].requires_grad_(name in of or name in by)
    out = function(**leaves, **case.geometry)
    grad = (pattern(out, 0.5) if grad is None else grad.detach()).requires_grad_("grad" in by)
    first = torch.autograd.grad(out, [leaves[name] for name in of], grad, create_graph=True)
    total = sum((g * pattern(g, i)).sum() for i, g in enumerate(first))
    if not total.requires_grad:
        return dict.fromkeys(by)
    targets = [grad if name == "grad" else leaves[name] for name in by]
    second = torch.autograd.grad(total, targets, allow_unused=True)
    return dict(zip(by, second, strict=True))


def assert_same(ours, expected, tolerance: float = 1e-11) -> None:
    for name in expected:
        if expected[name] is None or ours[name] is None:
            for second in (ours[name], expected[name]):
                assert second is None or not second.any(), name
            continue
        scale = expected[name].abs().amax().item() if expected[name].numel() else 0.0
        torch.testing.assert_close(
            ours[name].to(expected[name].dtype), expected[name],
            rtol=0, atol=tolerance * max(scale, 1.0), msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_gradgradcheck(case, device):
    leaves = leaves_of(case, device)

    def function(*values):
        return dcn.deform_conv2d(**dict(zip(leaves, values, strict=True)), **case.geometry)

    # On CUDA the input gradient is a sum in no fixed order.
    nondeterminism = 1e-12 if device == "cuda" else 0.0
    values = tuple(leaves.values())
    assert torch.autograd.gradgradcheck(function, values, nondet_tol=nondeterminism), case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_they_are_those_of_the_reference(case, device):
    tensors = case.tensors(device=device)
    expected = second_derivatives(dcn.reference.deform_conv2d, case, tensors)
    assert_same(second_derivatives(dcn.deform_conv2d, case, tensors), expected)
    assert_same(second_derivatives(through_the_class(case), case, tensors), expected)


@pytest.mark.parametrize("of, by", list(itertools.product(LEAVES, NAMES)), ids=str)
def test_each_argument_by_each_other(of, by, device):
    tensors = GROUPS.tensors(device=device)
    expected = second_derivatives(dcn.reference.deform_conv2d, GROUPS, tensors, [of], [by])
    ours = second_derivatives(dcn.deform_conv2d, GROUPS, tensors, [of], [by])
    assert_same(ours, expected)
    linear = of == by != "offset" or ("bias" in (of, by) and by != "grad")
    assert linear == (ours[by] is None or not ours[by].any())


@pytest.mark.parametrize(
    "of, by, masks",
    [
        ("input", "grad", []),
        ("input", "weight", [(False, True, False, False, False)]),
        ("weight", "mask", [(False, False, False, True, False)]),
        ("mask", "offset", [(False, False, True, False, False)]),
        ("offset", "grad", []),
        ("offset", "weight", [(False, True, False, False, False)] * 4),
        ("bias", "grad", []),
    ],
    ids=str,
)
def test_only_what_is_asked_for_is_computed(of, by, masks, device):
    with Masks() as seen:
        second_derivatives(dcn.deform_conv2d, GROUPS, GROUPS.tensors(device=device), [of], [by])
    first, *rest = seen.seen
    assert first == tuple(name == of for name in LEAVES)
    assert rest == masks


@pytest.mark.parametrize("where", ["on the pixels", "at the border", "outside"])
def test_positions_where_the_derivative_jumps(where, device):
    """On a pixel the cell is the one below and to the right, at exactly -1 a sample is outside."""
    case = Case("", n=2, c=4, size=(4, 5), k=3, offset_groups=2, padding=(2, 1))
    tensors = case.tensors(device=device)
    if where == "on the pixels":
        tensors["offset"] = tensors["offset"].round()
    elif where == "at the border":
        tensors["offset"] = torch.zeros_like(tensors["offset"])
    else:
        tensors["offset"][:, ::3] += 40000
        tensors["offset"][:, 1::3] = -torch.inf
    expected = second_derivatives(dcn.reference.deform_conv2d, case, tensors)
    ours = second_derivatives(dcn.deform_conv2d, case, tensors)
    assert_same(ours, expected)
    assert all(second is None or second.isfinite().all() for second in ours.values())


def test_pixels_outside_the_cell_are_not_read(device):
    """A sample outside has no cell: the NaN beside it stays where it is."""
    case = Case("", n=1, c=2, size=(1, 4), k=2, kernel=(1, 1), padding=(0, 0), mask=False)
    tensors = case.tensors(device=device)
    tensors["offset"] = torch.full_like(tensors["offset"], 0.25)
    tensors["offset"][:, 0, :, 0] = -1  # y of the first sample: above pixel 0
    tensors["input"][..., 0] = torch.nan
    second = second_derivatives(dcn.deform_conv2d, case, tensors, of=["offset"], by=["grad"])
    assert second["grad"].isfinite().all() and second["grad"][..., 1:].all()


@pytest.mark.parametrize("dtype, offset_dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_every_dtype(dtype, offset_dtype, device):
    """Against f64 on the same numbers, on a map so wide that 16 bits hold no fraction there."""
    case = Case("", n=1, c=4, size=(2, 1040), k=6, groups=2, offset_groups=2)
    tensors = case.tensors(dtype, device, offset_dtype=offset_dtype)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    grad = pattern(torch.empty(case.n, case.k, *case.output_size, dtype=dtype, device=device), 0.5)
    expected = second_derivatives(dcn.reference.deform_conv2d, case, exact, grad=grad.double())
    ours = second_derivatives(dcn.deform_conv2d, case, tensors, grad=grad)
    # That of the results, and of positions of up to 1040 px.
    positions = torch.float64 if dtype == torch.float64 else torch.float32
    rounding = 2 * torch.finfo(dtype).eps + 1040 * torch.finfo(positions).eps
    for name in expected:
        source = grad if name == "grad" else tensors[name]
        if expected[name] is not None:
            assert ours[name].dtype == source.dtype
            error = (ours[name].double() - expected[name]).norm() / expected[name].norm()
            assert error < rounding, name


def test_third_derivatives(device):
    def cubed(function, tensors):
        return function(**tensors, **GROUPS.geometry).pow(3).sum()

    def squared_gradient(function, order):
        if order == 0:
            return lambda tensors: cubed(function, tensors)
        below = torch.func.grad(squared_gradient(function, order - 1))
        return lambda tensors: sum(grad.square().sum() for grad in below(tensors).values())

    tensors = GROUPS.tensors(device=device)
    ours = torch.func.grad(squared_gradient(dcn.deform_conv2d, 2))(tensors)
    expected = torch.func.grad(squared_gradient(dcn.reference.deform_conv2d, 2))(tensors)
    assert_same(ours, expected, tolerance=1e-12)


def gradient_penalty(function, case):
    """A scalar with every second derivative in its gradient."""

    def loss(tensors):
        return function(**tensors, **case.geometry).square().sum()

    def penalty(tensors):
        return sum(grad.square().sum() for grad in torch.func.grad(loss)(tensors).values())

    return penalty


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("batched", [("weight",), ("input",), ("offset", "mask"), LEAVES], ids=str)
@pytest.mark.parametrize(
    "function", [dcn.deform_conv2d, through_the_class(GROUPS)], ids=["", "class"]
)
def test_vmap_over_a_batch_of_arguments(function, batched, device):
    tensors = GROUPS.tensors(device=device)
    stacked = {name: torch.stack([tensors[name], tensors[name] * 0.9]) for name in batched}
    grad = torch.func.grad(gradient_penalty(function, GROUPS))
    sliced = torch.func.vmap(lambda some: grad(tensors | some))(stacked)
    for i in range(2):
        some = {name: tensor[i] for name, tensor in stacked.items()}
        expected = torch.func.grad(gradient_penalty(dcn.reference.deform_conv2d, GROUPS))
        ours = {name: tensor[i] for name, tensor in sliced.items()}
        assert_same(ours, expected(tensors | some), tolerance=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_hessian_of_the_offsets(device):
    """jacrev is a vmap over vjps; a bilinear sample has one second derivative, d2/dydx."""
    case = Case("", n=1, c=2, size=(3, 2), k=2, kernel=(1, 1), padding=(0, 0))
    tensors = case.tensors(device=device)

    def hessian(function):
        def total(offset):
            return function(**(tensors | {"offset": offset}), **case.geometry).sum()

        return torch.func.jacrev(torch.func.jacrev(total))(tensors["offset"])

    ours = hessian(dcn.deform_conv2d)
    torch.testing.assert_close(ours, hessian(dcn.reference.deform_conv2d), rtol=0, atol=1e-14)
    yy, yx = ours[0, 0, :, :, 0, 0], ours[0, 0, :, :, 0, 1]
    assert not yy.any() and yx.any()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_functional_gradients(dynamic, device):
    torch._dynamo.reset()
    grad = torch.func.grad(gradient_penalty(dcn.deform_conv2d, GROUPS))
    tensors = GROUPS.tensors(device=device)
    compiled = torch.compile(grad, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    assert_same(compiled(tensors), grad(tensors), tolerance=1e-12)


def test_autocast_leaves_the_second_pass_alone(device):
    """What the forward pass saw is what is differentiated, in whatever scope that happens."""
    results = []
    for inside in (True, False):
        leaves = GROUPS.tensors(torch.float32, device, requires_grad=True)
        out = dcn.deform_conv2d(**leaves, **GROUPS.geometry)
        grad = pattern(out, 0).requires_grad_()
        with torch.autocast(device, torch.bfloat16, enabled=inside):
            first = torch.autograd.grad(
                out, [leaves["input"], leaves["offset"]], grad, create_graph=True
            )
            total = sum((grad * pattern(grad, 1)).sum() for grad in first)
            results.append(torch.autograd.grad(total, [grad, leaves["weight"], leaves["offset"]]))
    tolerance = {} if device == "cuda" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(*results, **tolerance)


def backward_operator(case: Case, device: str, output_mask):
    """The results of the operator itself, and its leaves."""
    leaves = case.tensors(device=device)
    leaves["grad"] = torch.ones(case.n, case.k, *case.output_size, dtype=torch.float64).to(device)
    for leaf in leaves.values():
        if leaf is not None:
            leaf.requires_grad_()
    arguments = case.backward_arguments(leaves["grad"], leaves)
    return torch.ops.dcn.deform_conv2d_backward(*arguments, output_mask), leaves


@pytest.mark.parametrize(
    "case", [GROUPS, dataclasses.replace(GROUPS, mask=False)], ids=["v2", "v1"]
)
def test_what_was_not_computed_adds_nothing(case, device):
    """The operator returns an empty tensor for it, which has a gradient as well."""
    asked = [True, False, False, not case.mask, True]
    results, leaves = backward_operator(case, device, asked)
    some = torch.autograd.grad(results[0].sum() + results[4].sum(), [leaves["weight"]])
    results, leaves = backward_operator(case, device, asked)
    every = torch.autograd.grad(sum(result.sum() for result in results), [leaves["weight"]])
    torch.testing.assert_close(every, some)


def test_a_graph_is_freed_after_its_use(device):
    results, leaves = backward_operator(GROUPS, device, [True] * 5)
    total = results[0].sum()
    torch.autograd.grad(total, [leaves["offset"]], retain_graph=True)
    torch.autograd.grad(total, [leaves["offset"]])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, [leaves["offset"]])


@pytest.mark.parametrize("forced, other", [("cpu", "im2col_gemm"), ("im2col_gemm", "cpu")])
def test_the_forced_algorithm_travels_to_the_second_pass(forced, other):
    """Out of its scope, and into one where no call of its device could run."""
    device = "cpu" if forced == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    leaves = GROUPS.tensors(device=device, requires_grad=True)
    with dcn.force_algorithm(forced):
        out = dcn.deform_conv2d(**leaves, **GROUPS.geometry).square().sum()
    (grad,) = torch.autograd.grad(out, [leaves["input"]], create_graph=True)
    with dcn.force_algorithm(other):
        torch.autograd.grad(grad.sum(), [leaves["offset"]])
    assert dcn.last_plan().algorithm == forced
