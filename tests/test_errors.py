"""Bad calls: a table of (change to a good call, what the message says), on every device.

The table calls the operators themselves, which check everything again: Python code, exported models
and LibTorch all end there. Nothing here allocates much: huge sizes are expanded from one element.
"""

import re

import pytest
import torch
from cases import LEAVES, Case

GOOD = Case("good", n=2, c=4, size=(7, 6), k=6)
NUMBERS = ("stride", "padding", "dilation", "groups", "offset_groups", "im2col_step")


def shaped(*shape: int, dtype=torch.float32):
    """A stand-in for a tensor of the call: one element, expanded."""
    return lambda device: torch.zeros((), dtype=dtype, device=device).expand(shape)


def of_dtype(name: str, dtype: torch.dtype):
    return lambda device: GOOD.tensors(torch.float32, device)[name].to(dtype)


def huge_images(channels: int, rows: int, columns: int, outputs: int = 1) -> dict:
    """A call of one image that is fine but for its sizes."""
    return {
        "input": shaped(1, channels, rows, columns),
        "weight": shaped(outputs, channels, 1, 1),
        "offset": shaped(1, 2, rows, columns),
        "mask": None,
        "bias": None,
        "padding": (0, 0),
    }


SIZES = [
    # Ranks.
    ({"input": shaped(4, 7, 6)}, "expected input with 4 dimensions, but got 3 dimensions"),
    ({"input": shaped(2, 4, 7, 6, 1)}, "expected input with 4 dimensions, but got 5 dimensions"),
    ({"weight": shaped(6, 4, 9)}, "expected weight with 4 dimensions, but got 3 dimensions"),
    ({"offset": shaped(18, 7, 6)}, "expected offset with 4 dimensions, but got 3 dimensions"),
    ({"mask": shaped(9, 7, 6)}, "expected mask with 4 dimensions, but got 3 dimensions"),
    # Every size.
    ({"input": shaped(2, 0, 7, 6), "weight": shaped(6, 0, 3, 3)}, "at least one input"),
    ({"weight": shaped(0, 4, 3, 3), "bias": None}, "at least one input and one output channel"),
    ({"weight": shaped(6, 3, 3, 3)}, "expected weight of shape [K, C/G, R, S] = [6, 4, 3, 3]"),
    ({"weight": shaped(6, 4, 0, 3)}, "weight_h: 0 weight_w: 3"),
    ({"weight": shaped(6, 4, 3, 0)}, "weight_h: 3 weight_w: 0"),
    ({"offset": shaped(3, 18, 7, 6)}, "invalid batch size of offset"),
    ({"offset": shaped(2, 16, 7, 6)}, "offset.shape[1] is not valid: got: 16 expected: 18"),
    ({"offset": shaped(2, 36, 7, 6)}, "offset.shape[1] is not valid: got: 36 expected: 18"),
    ({"offset": shaped(2, 18, 6, 6)}, "offset output dims: (6, 6) - computed output dims: (7, 6)"),
    ({"offset": shaped(2, 18, 7, 5)}, "offset output dims: (7, 5) - computed output dims: (7, 6)"),
    ({"mask": shaped(1, 9, 7, 6)}, "invalid batch size of mask"),
    ({"mask": shaped(2, 0, 7, 6)}, "mask.shape[1] is not valid: got: 0 expected: 9"),
    ({"mask": shaped(2, 18, 7, 6)}, "mask.shape[1] is not valid: got: 18 expected: 9"),
    ({"mask": shaped(2, 9, 8, 6)}, "mask output dims: (8, 6) - computed output dims: (7, 6)"),
    ({"mask": shaped(2, 9, 7, 1)}, "mask output dims: (7, 1) - computed output dims: (7, 6)"),
    # Groups that do not divide.
    ({"groups": 3}, "input channels (4)"),
    ({"groups": 4}, "(6) must be divisible by groups (4)"),
    ({"offset_groups": 3}, "input channels (4) must be divisible by offset groups (3)"),
    ({"offset_groups": 2}, "offset.shape[1] is not valid: got: 18 expected: 36"),
    # Numbers.
    ({"stride": (0, 1)}, "stride_h: 0 stride_w: 1"),
    ({"stride": (1, -2)}, "stride_h: 1 stride_w: -2"),
    ({"dilation": (0, 1)}, "dilation_h: 0 dilation_w: 1"),
    ({"dilation": (1, -1)}, "dilation_h: 1 dilation_w: -1"),
    ({"padding": (-1, 1)}, "pad_h: -1 pad_w: 1"),
    ({"padding": (1, -3)}, "pad_h: 1 pad_w: -3"),
    ({"groups": 0}, "expected a positive number of groups, but got 0"),
    ({"groups": -1}, "expected a positive number of groups, but got -1"),
    ({"offset_groups": 0}, "the shape of the offset tensor at dimension 1 is not valid"),
    ({"im2col_step": -1}, "expected a non-negative im2col_step, but got -1"),
    ({"stride": (1, 1, 1)}, "of 2 values each"),
    ({"padding": (1, 1, 1)}, "of 2 values each"),
    # An output that is too small.
    ({"dilation": (5, 1)}, "Calculated output size too small - out_h: 0 out_w: 6"),
    ({"padding": (0, 0), "dilation": (1, 3)}, "Calculated output size too small"),
    ({"input": shaped(2, 4, 0, 6), "padding": (0, 0)}, "Calculated output size too small"),
    # 32-bit limits.
    (huge_images(2**15, 2**8, 2**8), "2^31 or more elements"),
    (huge_images(1, 2**8, 2**8, outputs=2**15), "2^31 or more elements"),
    (huge_images(1, 2**15, 2**15), "2^31 or more elements"),
    (huge_images(1, 1, 2**24), "2^24 or more pixels"),
    (huge_images(1, 2**31, 1), "an input height of 2147483648 is too large"),
    (huge_images(1, 1, 2**31), "an input width of 2147483648 is too large"),
    (huge_images(2**31, 1, 1), "a channel count of 2147483648 is too large"),
    ({"weight": shaped(2**31, 4, 3, 3)}, "an output channel count of 2147483648 is too large"),
    ({"stride": (2**40, 1)}, "a stride of 1099511627776 is too large"),
    ({"padding": (2**31, 1)}, "a padding of 2147483648 is too large"),
    ({"padding": (2**62, 1)}, "is too large"),
    ({"dilation": (1, 2**31)}, "a dilation of 2147483648 is too large"),
    ({"groups": 2**31}, "a number of groups of 2147483648 is too large"),
    ({"padding": (1, 2**30)}, "an output width of 2147483652 is too large"),
]

DTYPES = [
    ({"input": of_dtype("input", torch.int64)}, "expected an input of dtype Double, Float, Half"),
    ({"input": of_dtype("input", torch.complex64)}, "Double, Float, Half or BFloat16, but got"),
    ({"input": of_dtype("input", torch.float64)}, "expected weight of dtype Double like the input"),
    ({"weight": of_dtype("weight", torch.float16)}, "but got Half"),
    ({"weight": of_dtype("weight", torch.bfloat16)}, "expected weight of dtype Float like"),
    ({"offset": of_dtype("offset", torch.float64)}, "expected offset of dtype Float like"),
    ({"offset": of_dtype("offset", torch.float16)}, "but got Half"),
    ({"mask": of_dtype("mask", torch.bfloat16)}, "expected mask of dtype Float like the input"),
    (
        {name: of_dtype(name, torch.float16) for name in LEAVES}
        | {"offset": of_dtype("offset", torch.bfloat16)},
        "expected offset of dtype Half like the input or Float, but got BFloat16",
    ),
    (
        {name: of_dtype(name, torch.bfloat16) for name in LEAVES}
        | {"mask": of_dtype("mask", torch.float64)},
        "expected mask of dtype BFloat16 like the input or Float, but got Double",
    ),
    (
        {name: of_dtype(name, torch.float16) for name in ("input", "offset", "mask", "bias")},
        "expected weight of dtype Half like the input, but got Float",
    ),
]

FORWARD_ONLY = [
    ({"bias": shaped(6, 1)}, "expected bias with 1 dimensions, but got 2 dimensions"),
    ({"bias": shaped(4)}, "expected bias of shape [K] = [6], but got [4]"),
    ({"bias": shaped(0)}, "expected bias of shape [K] = [6], but got [0]"),
    ({"bias": of_dtype("bias", torch.float64)}, "expected bias of dtype Float like the input"),
]

GRAD = [
    (shaped(2, 6, 7), "expected grad with 4 dimensions, but got 3 dimensions"),
    (shaped(2, 6, 7, 7), "expected grad of shape [N, K, P, Q] = [2, 6, 7, 6]"),
    (shaped(1, 6, 7, 6), "expected grad of shape [N, K, P, Q] = [2, 6, 7, 6]"),
    (shaped(2, 5, 7, 6), "expected grad of shape [N, K, P, Q] = [2, 6, 7, 6]"),
    (shaped(2, 6, 7, 6, dtype=torch.float64), "expected grad of dtype Float like the input"),
]


def good_call(device: str) -> dict:
    tensors = GOOD.tensors(torch.float32, device)
    numbers = {"groups": 1, "offset_groups": 1, "im2col_step": 0}
    return {name: tensors[name] for name in LEAVES} | GOOD.geometry | numbers


def changed(change: dict, device: str) -> dict:
    values = {key: value(device) if callable(value) else value for key, value in change.items()}
    return good_call(device) | values


def forward(call: dict) -> torch.Tensor:
    return torch.ops.dcn.deform_conv2d(*call.values())


def backward(call: dict, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    tensors = (call[name] for name in LEAVES[:4])
    numbers = [call[name] for name in NUMBERS]
    return torch.ops.dcn.deform_conv2d_backward(
        grad, *tensors, *numbers[:5], [True] * 5, numbers[5]
    )


def works(device: str) -> bool:
    """The process goes on: a good call still gives the right values."""
    call = good_call(device)
    with torch.no_grad():
        grads = backward(call, torch.ones_like(forward(call)))
    expected = torch.full_like(grads[4], 2 * 7 * 6)
    return torch.equal(grads[4], expected) and all(grad.isfinite().all() for grad in grads)


def ids(table: list) -> list[str]:
    return [f"{'+'.join(change)}: {phrase[:40]}" for change, phrase in table]


@pytest.mark.parametrize(
    "change, phrase", SIZES + DTYPES + FORWARD_ONLY, ids=ids(SIZES + DTYPES + FORWARD_ONLY)
)
def test_the_forward_operator_refuses(change, phrase, device):
    with pytest.raises(RuntimeError, match=re.escape(phrase)) as error:
        forward(changed(change, device))
    assert str(error.value).startswith("deform_conv2d: ")
    assert works(device)


@pytest.mark.parametrize("change, phrase", SIZES + DTYPES, ids=ids(SIZES + DTYPES))
def test_the_backward_operator_refuses(change, phrase, device):
    call = changed(change, device)
    dtype = call["input"].dtype
    grad = torch.zeros(2, 6, 7, 6, dtype=dtype, device=device)
    with pytest.raises(RuntimeError, match=re.escape(phrase)):
        backward(call, grad)
    assert works(device)


@pytest.mark.parametrize("grad, phrase", GRAD, ids=[phrase for _, phrase in GRAD])
def test_the_backward_operator_refuses_a_gradient(grad, phrase, device):
    with pytest.raises(RuntimeError, match=re.escape(phrase)):
        backward(good_call(device), grad(device))
    assert works(device)


@pytest.mark.parametrize(
    "change, phrase", SIZES + DTYPES + FORWARD_ONLY, ids=ids(SIZES + DTYPES + FORWARD_ONLY)
)
def test_a_traced_forward_is_refused_in_the_same_words(change, phrase):
    """By the fake kernels, which calls with meta tensors reach."""
    with pytest.raises(RuntimeError, match=re.escape(phrase)) as real:
        forward(changed(change, "cpu"))
    with pytest.raises(RuntimeError) as fake:
        forward(changed(change, "meta"))
    assert str(fake.value) == str(real.value)


@pytest.mark.parametrize(
    "change, grad",
    [(change, shaped(2, 6, 7, 6)) for change, _ in SIZES] + [({}, grad) for grad, _ in GRAD],
    ids=[*ids(SIZES), *(phrase for _, phrase in GRAD)],
)
def test_a_traced_backward_is_refused_in_the_same_words(change, grad):
    errors = []
    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError) as error:
            backward(changed(change, device), grad(device))
        errors.append(str(error.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", LEAVES)
def test_a_tensor_on_another_device(name, device):
    """A CPU offset beside a CUDA input was an illegal memory access in other libraries."""
    other = "meta" if device == "cpu" else "cpu"
    call = good_call(device)
    call[name] = call[name].to(other)
    with pytest.raises(RuntimeError, match="expected all tensors on the input's device"):
        forward(call)
    assert works(device)


def test_a_good_call_is_good(device):
    """The table changes one thing at a time of a call that is served."""
    assert works(device)
    call = good_call(device) | {"mask": None, "bias": None}
    assert forward(call).shape == (2, 6, 7, 6)


@pytest.mark.parametrize("name", LEAVES)
def test_forward_mode_is_refused_in_a_sentence(name, device):
    tensors = GOOD.tensors(device=device)

    def function(value):
        return torch.ops.dcn.deform_conv2d(*GOOD.arguments(tensors | {name: value}))

    with pytest.raises(NotImplementedError, match=r"forward-mode .* is not supported; use reverse"):
        torch.func.jvp(function, (tensors[name],), (torch.ones_like(tensors[name]),))
    assert works(device)


@pytest.mark.parametrize("name", [*LEAVES[:4], "grad"])  # no gradient depends on the bias
def test_forward_mode_over_reverse_mode_is_refused_too(name, device):
    """Even where the tangent comes in with the gradient alone."""
    call = GOOD.tensors(device=device)
    call["grad"] = torch.ones(2, 6, 7, 6, dtype=torch.float64, device=device)

    def function(value):
        some = call | {name: value}
        arguments = GOOD.backward_arguments(some["grad"], some)
        return torch.ops.dcn.deform_conv2d_backward(*arguments, [True] * 5)

    with pytest.raises(NotImplementedError, match=r"forward-mode .* is not supported; use reverse"):
        torch.func.jvp(function, (call[name],), (torch.ones_like(call[name]),))
    assert works(device)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_two_gpus():
    call = good_call("cuda:0")
    call["offset"] = call["offset"].to("cuda:1")
    with pytest.raises(RuntimeError, match="input's device cuda:0, but offset is on cuda:1"):
        forward(call)
    assert works("cuda:0")
