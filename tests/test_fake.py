"""What the operators say without computing: fake kernels, tracing, compiling, and loading."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from torch._subclasses.fake_tensor import FakeTensorMode

import dcn
from dcn._ops import mismatch, without_cuda

PLAIN = CASES[0]
LAST = torch.channels_last


def arguments(case, tensors):
    """In the order of the registered operator."""
    order = [tensors[name] for name in ("input", "weight", "offset", "mask", "bias")]
    return (*order, *case.geometry.values(), case.groups, case.offset_groups)


def backward_arguments(case, tensors, output_mask=(True,) * 5):
    *rest, _, stride, padding, dilation, groups, offset_groups = arguments(case, tensors)
    input = rest[0]
    grad = torch.ones(case.n, case.k, *case.output_size, dtype=input.dtype, device=input.device)
    numbers = (stride, padding, dilation, groups, offset_groups)
    return (grad, *rest, *numbers, list(output_mask))


def described(result):
    results = result if isinstance(result, tuple) else (result,)
    return [(tuple(t.shape), t.stride(), t.dtype, t.device.type) for t in results]


def fake_and_real(operator, args):
    real = described(operator(*args))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        return described(operator(*fakes)), real


@pytest.mark.parametrize("name", ["plain", "v1", "stride", "groups", "5x1", "no images"])
def test_opcheck_forward(name, device):
    case = next(case for case in CASES if case.name == name)
    tensors = case.tensors(torch.float32, device, requires_grad=True)
    torch.library.opcheck(torch.ops.dcn.deform_conv2d.default, arguments(case, tensors))


@pytest.mark.parametrize("name", ["plain", "v1", "groups", "no images"])
def test_opcheck_backward(name, device):
    case = next(case for case in CASES if case.name == name)
    args = backward_arguments(
        case, case.tensors(torch.float32, device), (True, False) * 2 + (True,)
    )
    torch.library.opcheck(torch.ops.dcn.deform_conv2d_backward.default, args)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("last", [(), ("input",), ("weight", "offset"), ("input", "mask")], ids=str)
def test_shapes_strides_and_dtypes_are_those_of_the_kernels(case, last, device):
    tensors = case.tensors(torch.float32, device)
    for name in last:
        if tensors[name] is not None:
            tensors[name] = tensors[name].contiguous(memory_format=LAST)
    fake, real = fake_and_real(torch.ops.dcn.deform_conv2d, arguments(case, tensors))
    assert fake == real
    args = backward_arguments(case, tensors)
    fake, real = fake_and_real(torch.ops.dcn.deform_conv2d_backward, args)
    assert fake == real


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wide", [(), ("offset",), ("mask",), ("offset", "mask")], ids=str)
def test_float32_offset_or_mask_beside_16_bits(dtype, wide, device):
    tensors = PLAIN.tensors(dtype, device)
    tensors |= {name: tensors[name].float() for name in wide}
    fake, real = fake_and_real(torch.ops.dcn.deform_conv2d, arguments(PLAIN, tensors))
    assert fake == real and real[0][2] == dtype
    args = backward_arguments(PLAIN, tensors)
    fake, real = fake_and_real(torch.ops.dcn.deform_conv2d_backward, args)
    assert fake == real
    assert real[2][2] == tensors["offset"].dtype and real[3][2] == tensors["mask"].dtype


@pytest.mark.parametrize("output_mask", list(itertools.product([False, True], repeat=5)), ids=str)
def test_what_is_not_asked_for_is_empty(output_mask, device):
    args = backward_arguments(PLAIN, PLAIN.tensors(torch.float32, device), output_mask)
    fake, real = fake_and_real(torch.ops.dcn.deform_conv2d_backward, args)
    assert fake == real
    assert [shape != (0,) for shape, *_ in real] == list(output_mask)


def test_meta_tensors_of_any_size():
    shapes = {
        "input": (16, 512, 512, 512),
        "weight": (512, 512, 3, 3),
        "offset": (16, 18, 512, 512),
    }
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape in shapes.items()
    }
    out = dcn.deform_conv2d(**tensors, padding=1)
    assert out.shape == (16, 512, 512, 512) and out.dtype == torch.bfloat16 and out.is_meta


def test_limits_leave_symbols_alone():
    """An upper bound on a size would be a guard: refused where it is exported without one."""
    module = dcn.DeformConv2dPack(4, 6, 3, padding=1)
    size = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    torch.export.export(module, (torch.rand(2, 4, 9, 8),), dynamic_shapes=(size,))


def compiled(function, backend="aot_eager", **options):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return torch.compile(function, fullgraph=True, backend=backend, **options)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_with_dynamic_shapes(backend, device):
    if backend == "inductor" and device == "cpu" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    function = compiled(dcn.deform_conv2d, backend, dynamic=True)
    # No two sizes of the first call are equal: the compiler takes equal ones for one symbol.
    for n, size in ((2, (11, 13)), (5, (17, 8)), (7, (12, 15))):
        case = Case("", n=n, size=size)
        results = []
        for call in (function, dcn.deform_conv2d):
            tensors = case.tensors(torch.float32, device, requires_grad=True)
            out = call(**tensors, **case.geometry)
            out.square().sum().backward()
            results.append([out.detach(), *(tensor.grad for tensor in tensors.values())])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)
            assert ours.stride() == expected.stride()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("needed", [("input",), ("offset", "mask"), ("weight", "bias")], ids=str)
def test_compile_with_some_gradients(needed, device):
    function = compiled(dcn.deform_conv2d)
    results = []
    for call in (function, dcn.deform_conv2d):
        tensors = PLAIN.tensors(torch.float32, device)
        for name in needed:
            tensors[name].requires_grad_()
        call(**tensors, **PLAIN.geometry).square().sum().backward()
        assert all((t.grad is not None) == (name in needed) for name, t in tensors.items())
        results.append([tensors[name].grad for name in needed])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("pack", [dcn.DeformConv2dPack, dcn.ModulatedDeformConv2dPack])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST], ids=str)
def test_compile_a_pack(pack, memory_format, device):
    torch.manual_seed(0)
    module = pack(4, 6, 3, padding=1, activation=torch.relu).to(device, memory_format=memory_format)
    torch.nn.init.normal_(module.conv_offset.weight, std=0.1)
    x = torch.rand(2, 4, 9, 8, device=device).contiguous(memory_format=memory_format)
    ours, expected = compiled(module)(x), module(x)
    torch.testing.assert_close(ours, expected)
    assert ours.stride() == expected.stride()


def test_compile_under_autocast(device):
    module = dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1).to(device)
    x = torch.rand(2, 4, 9, 8, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = compiled(module)(x)
        torch.testing.assert_close(out, module(x))
    assert out.dtype == torch.bfloat16


def test_compile_says_what_does_not_fit():
    tensors = PLAIN.tensors(torch.float32) | {"offset": torch.zeros(2, 18, 5, 6)}
    with pytest.raises(Exception, match="offset output dims"):
        compiled(dcn.deform_conv2d)(**tensors, **PLAIN.geometry)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_size(strict, tmp_path):
    module = dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1).eval()
    torch.nn.init.normal_(module.conv_offset.weight, std=0.1)
    sizes = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", min=2, max=512)}
    program = torch.export.export(
        module, (torch.rand(2, 4, 9, 8),), dynamic_shapes=({**sizes},), strict=strict
    )
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.dcn.deform_conv2d.default in targets
    torch.export.save(program, tmp_path / "pack.pt2")
    again = torch.export.load(tmp_path / "pack.pt2").module()
    for n, h in ((2, 9), (5, 13)):
        x = torch.rand(n, 4, h, 8)
        torch.testing.assert_close(again(x), module(x))


@pytest.mark.parametrize(
    "installed, cuda, sentence",
    [
        ("2.11.0+cu130", "13.0", ""),
        ("2.11.1", "13.1", ""),
        ("2.12.0+cu130", "13.0", "built against torch 2.11.0 but torch 2.12.0+cu130 is installed"),
        ("2.1.2", "13.0", "built against torch 2.11.0 but torch 2.1.2 is installed"),
        ("2.11.0+cu128", "12.8", "built with CUDA 13.0 but the installed torch 2.11.0+cu128 has "),
        ("2.11.0+cpu", None, "but the installed torch 2.11.0+cpu has no CUDA: rebuild it"),
    ],
)
def test_another_torch_is_one_sentence(installed, cuda, sentence):
    found = mismatch("2.11.0", "13.0", installed, cuda)
    assert sentence in found and bool(sentence) == bool(found)
    if found:
        assert "pip install --no-build-isolation" in found and "\n" not in found


def test_a_build_without_cuda_serves_every_torch_of_its_version():
    assert not mismatch("2.11.0", "", "2.11.0+cu130", "13.0")
    assert not mismatch("2.11.0", "", "2.11.0+cpu", None)


def test_a_build_without_cuda_says_so():
    with pytest.raises(NotImplementedError, match=r"built without CUDA kernels: .*`pip install"):
        without_cuda()
    # In a build with CUDA the kernels hold this place.
    assert torch._C._dispatch_has_kernel_for_dispatch_key("dcn::deform_conv2d", "CUDA")


@pytest.mark.parametrize(
    "stamp, sentence",
    [
        (None, "dcn has no compiled library at"),
        (
            'torch_version, cuda_version = "1.0.0", ""',
            "dcn was built against torch 1.0.0 but torch",
        ),
    ],
)
def test_an_import_that_cannot_work_says_what_to_run(stamp, sentence, tmp_path):
    package = tmp_path / "dcn"
    built = shutil.ignore_patterns("_build.py", "lib", "_C*", "include", "__pycache__")
    shutil.copytree(Path(dcn.__file__).parent, package, ignore=built)
    (package / "lib").mkdir()
    if stamp:
        (package / "_build.py").write_text(stamp)
        (package / "lib" / "libdcn.so").touch()
    result = subprocess.run(
        [sys.executable, "-c", "import dcn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ") and sentence in last and "pip install" in last
