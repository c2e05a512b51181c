"""The numeric rules, each by its own test: coordinates, the border, TF32, determinism.

Non-finite numbers are in test_nonfinite.py.
"""

import subprocess
import sys
import warnings

import pytest
import torch
from cases import CASES, DTYPES, LEAVES, named

import dcn

CALLS = pytest.mark.parametrize("dtype, offset_dtype", list(DTYPES.values()), ids=list(DTYPES))


def move_one_axis(axis: int, pixels: int, offset: float, dtype, offset_dtype, device):
    """A 1x1 convolution of a stripe of 1 0 1 0 ... by an offset along it; output and leaves."""
    shape = (1, 1, 1, pixels) if axis else (1, 1, pixels, 1)
    stripe = 1 - torch.arange(pixels, device=device).remainder(2).reshape(shape)
    leaves = {
        "input": stripe.to(dtype).requires_grad_(),
        "offset": torch.zeros(1, 2, *shape[2:], dtype=offset_dtype, device=device),
        "weight": torch.ones(1, 1, 1, 1, dtype=dtype, device=device, requires_grad=True),
        "mask": torch.ones(shape, dtype=offset_dtype, device=device, requires_grad=True),
    }
    leaves["offset"][:, axis] = offset
    leaves["offset"].requires_grad_()
    out = dcn.deform_conv2d(**leaves)
    out.backward(torch.ones_like(out))
    return out.detach().flatten(), leaves


@CALLS
@pytest.mark.parametrize("axis", [0, 1], ids=["y", "x"])
def test_offsets_keep_their_fraction_on_large_maps(axis, dtype, offset_dtype, device):
    """Computed in float16, positions above 2048 have no fraction left; in bfloat16, above 256."""
    out, leaves = move_one_axis(axis, 4100, 0.25, dtype, offset_dtype, device)
    expected = torch.where(torch.arange(4099) % 2 == 0, 0.75, 0.25)
    assert out[:-1].tolist() == expected.tolist()
    slope = torch.where(torch.arange(4099) % 2 == 0, -1.0, 1.0)
    assert leaves["offset"].grad[0, axis].flatten()[:-1].tolist() == slope.tolist()
    assert leaves["mask"].grad.flatten()[:-1].tolist() == expected.tolist()
    # Every pixel gives 0.75 of itself to its own output and 0.25 to the one before.
    assert leaves["input"].grad.flatten().tolist() == [0.75] + [1.0] * 4099


@CALLS
@pytest.mark.parametrize("axis", [0, 1], ids=["y", "x"])
def test_a_sample_exactly_at_minus_one_is_outside(axis, dtype, offset_dtype, device):
    out, leaves = move_one_axis(axis, 6, -1.0, dtype, offset_dtype, device)
    assert out.tolist() == [0, 1, 0, 1, 0, 1]
    for name in ("offset", "mask"):
        assert (leaves[name].grad[..., :1, :1] == 0).all(), name
    # The pixel before is read with weight 1, and the last pixel by nobody.
    assert leaves["input"].grad.flatten().tolist() == [1, 1, 1, 1, 1, 0]


@CALLS
@pytest.mark.parametrize("axis", [0, 1], ids=["y", "x"])
def test_a_sample_exactly_at_the_size_is_outside(axis, dtype, offset_dtype, device):
    out, leaves = move_one_axis(axis, 6, 1.0, dtype, offset_dtype, device)
    assert out.tolist() == [0, 1, 0, 1, 0, 0]
    for name in ("offset", "mask"):
        assert (leaves[name].grad[..., -1:, -1:] == 0).all(), name
    assert leaves["input"].grad.flatten().tolist() == [0, 1, 1, 1, 1, 1]


@CALLS
@pytest.mark.parametrize("axis", [0, 1], ids=["y", "x"])
def test_a_sample_just_inside_the_border_counts(axis, dtype, offset_dtype, device):
    out, leaves = move_one_axis(axis, 6, -0.75, dtype, offset_dtype, device)
    assert out.tolist() == [0.25, 0.75, 0.25, 0.75, 0.25, 0.75]
    assert leaves["input"].grad.flatten().tolist() == [1, 1, 1, 1, 1, 0.25]
    assert leaves["offset"].grad[0, axis].flatten().tolist() == [1, -1, 1, -1, 1, -1]
    _, leaves = move_one_axis(axis, 5, 0.75, dtype, offset_dtype, device)
    assert leaves["mask"].grad.flatten().tolist() == [0.25, 0.75, 0.25, 0.75, 0.25]


def test_border_taps_have_no_offset_gradient_at_the_start_of_training(device):
    """Zero offsets and padding 1: the taps of the first row and column are exactly at -1."""
    tensors = named("plain").tensors(torch.float32, device)
    tensors["offset"] = torch.zeros_like(tensors["offset"]).requires_grad_()
    out = dcn.deform_conv2d(**tensors, padding=1)
    out.backward(torch.randn_like(out))
    grad = tensors["offset"].grad.unflatten(1, (3, 3, 2))  # [N, R, S, 2, P, Q]
    assert (grad[:, 0, :, :, 0] == 0).all() and (grad[:, :, 0, :, :, 0] == 0).all()
    assert (grad[:, 2, :, :, -1] == 0).all() and (grad[:, :, 2, :, :, -1] == 0).all()
    assert (grad[:, 1, 1] != 0).any() and (grad[:, 0, 1:, :, 1:] != 0).any()


def test_zero_offsets_give_the_convolution(device):
    tensors = named("stride 3").tensors(device=device)
    case = named("stride 3")
    tensors["offset"].zero_()
    tensors["mask"].fill_(1)
    expected = torch.nn.functional.conv2d(
        tensors["input"], tensors["weight"], tensors["bias"], **case.geometry
    )
    out = dcn.deform_conv2d(**tensors, **case.geometry)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


TF32_PROGRAM = """
import sys, torch, dcn
exec(sys.argv[1])
torch.manual_seed(0)
shapes = {"input": (2, 64, 40, 40), "offset": (2, 18, 40, 40), "weight": (64, 64, 3, 3)}
single = {name: torch.randn(shape, device="cuda") for name, shape in shapes.items()}
leaves = [{name: value.to(dtype, copy=True).requires_grad_() for name, value in single.items()}
          for dtype in (torch.float32, torch.float64)]
outs = [dcn.deform_conv2d(**tensors, padding=1) for tensors in leaves]
for out in outs:
    out.sum().backward()
pairs = [outs] + [[tensors[name].grad for tensors in leaves] for name in ("input", "weight")]
print(max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs))
"""


# A convolution's own precision, tf32 from the start, goes before the library's.
NO_OWN_PRECISION = "torch.backends.cudnn.conv.fp32_precision = 'none'"


def tf32_error(setting: str) -> float:
    """In a process of its own: PyTorch refuses to mix its two ways of setting the switch."""
    command = [sys.executable, "-c", TF32_PROGRAM, setting]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize(
    "allow, refuse",
    [
        ("torch.backends.cudnn.allow_tf32 = True", "torch.backends.cudnn.allow_tf32 = False"),
        (
            "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
            "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        ),
        (
            f"{NO_OWN_PRECISION}; torch.backends.cudnn.fp32_precision = 'tf32'",
            f"{NO_OWN_PRECISION}; torch.backends.cudnn.fp32_precision = 'ieee'",
        ),
    ],
    ids=["legacy flag", "convolution's precision", "library's precision"],
)
def test_tf32_follows_the_switch_of_convolutions(allow, refuse):
    # tf32 rounds operands to 2^-11, float32 to 2^-24: 2^6 lies between, whatever the sums do.
    with_tf32, without = tf32_error(allow), tf32_error(refuse)
    assert with_tf32 > 64 * without, (with_tf32, without)
    assert without < 2**-17


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_the_matmul_switch_is_not_ours():
    convolution = "torch.backends.cudnn.conv.fp32_precision = 'ieee'"
    matmul = "torch.backends.cuda.matmul.fp32_precision = 'tf32'"
    assert tf32_error(f"{convolution}; {matmul}") < 2**-17


def run(case, dtype, device, names=LEAVES):
    """Output and the gradients of `names`."""
    leaves = case.tensors(dtype, device)
    for name in names:
        if leaves[name] is not None:
            leaves[name].requires_grad_()
    out = dcn.deform_conv2d(**leaves, **case.geometry)
    out.backward(torch.linspace(-1, 1, out.numel(), device=device).to(dtype).reshape(out.shape))
    grads = [leaves[name].grad for name in names if leaves[name] is not None]
    return [out.detach(), *grads]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["1 group of 64", "16 groups of 8", "7 images", "groups"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_every_time(name, dtype, threads, device):
    """On CUDA all but the input gradient, which atomics add up."""
    torch.set_num_threads(threads)
    names = LEAVES if device == "cpu" else LEAVES[1:]
    first = run(named(name), dtype, device, names)
    for _ in range(5):
        assert all(map(torch.equal, first, run(named(name), dtype, device, names)))


def test_deterministic_mode_without_the_input_gradient(device):
    torch.use_deterministic_algorithms(True)
    names = LEAVES if device == "cpu" else LEAVES[1:]
    for case in CASES[:4]:
        first = run(case, torch.float32, device, names)
        assert all(map(torch.equal, first, run(case, torch.float32, device, names)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["1 group of 64", "16 groups of 8", "7 images", "groups"])
def test_deterministic_mode_is_deterministic(name, dtype, device):
    torch.use_deterministic_algorithms(True)
    first = run(named(name), dtype, device)
    for _ in range(5):
        assert all(map(torch.equal, first, run(named(name), dtype, device)))


def test_deterministic_mode_has_nothing_to_warn_of(device):
    case = named("1 group of 64")
    expected = run(case, torch.float64, device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = run(case, torch.float64, device)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_no_memory_is_read_before_it_is_written(case, dtype, device):
    """In this mode PyTorch fills what it allocates with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    for value in run(case, dtype, device):
        assert value.isfinite().all()
