"""Exported to ONNX: valid, one standard operator a layer, and in ONNX Runtime what it is here."""

import subprocess
import sys

import pytest
import torch
from cases import DTYPES, Case, named
from test_interop import images, model
from torch import nn

import dcn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Layer(nn.Module):
    """A call with its weights as parameters, f32 outside whatever it is inside."""

    def __init__(self, case: Case, tensors, io: torch.dtype | None = None) -> None:
        super().__init__()
        self.geometry, self.io = case.geometry, io
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
        self.weight = nn.Parameter(tensors["weight"])
        self.bias = None if tensors["bias"] is None else nn.Parameter(tensors["bias"])

    def forward(self, **inputs):
        if self.io:
            inputs = {name: tensor.to(self.dtypes[name]) for name, tensor in inputs.items()}
        out = dcn.deform_conv2d(**inputs, weight=self.weight, bias=self.bias, **self.geometry)
        return out.to(self.io) if self.io else out


def export(module: nn.Module, *args, kwargs=None, **options):
    """The model, checked, and a session of ONNX Runtime that runs it."""
    program = torch.onnx.export(
        module.eval(), args, kwargs=kwargs, dynamo=True, verbose=False,
        custom_translation_table=dcn.onnx.translation_table(), **options,
    )  # fmt: skip
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    return proto, onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run(session, *tensors: torch.Tensor) -> torch.Tensor:
    inputs = (tensor.detach().numpy() for tensor in tensors)
    names = (argument.name for argument in session.get_inputs())
    return torch.from_numpy(session.run(None, dict(zip(names, inputs, strict=True)))[0])


def inputs_of(tensors) -> dict[str, torch.Tensor]:
    names = ("input", "offset", "mask")
    return {name: tensors[name] for name in names if tensors[name] is not None}


EXPORTED = [
    "plain", "v1", "stride", "dilation", "2x3", "5x1", "groups", "depthwise", "offset groups",
    "2 groups across 3", "padding beyond the kernel", "no images",
]  # fmt: skip


@pytest.mark.parametrize("name", EXPORTED)
def test_values_are_the_same(name):
    case = named(name)
    tensors = case.tensors(torch.float32)
    module, inputs = Layer(case, tensors), inputs_of(tensors)
    proto, session = export(module, kwargs=inputs)
    assert [node.op_type for node in proto.graph.node] == ["DeformConv"]
    torch.testing.assert_close(run(session, *inputs.values()), module(**inputs))
    # As at the start of training: taps on the pixels, those over the border at exactly -1.
    inputs["offset"] = torch.zeros_like(inputs["offset"])
    torch.testing.assert_close(run(session, *inputs.values()), module(**inputs))


@pytest.mark.parametrize("dtype, offset_dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_every_dtype(dtype, offset_dtype):
    """Runtimes have no bf16 input from NumPy, so 16 bits are made inside of the model."""
    case = Case("", groups=2, offset_groups=2)
    tensors = case.tensors(dtype, offset_dtype=offset_dtype)
    module = Layer(case, tensors, io=torch.promote_types(dtype, torch.float32))
    inputs = {name: tensor.to(module.io) for name, tensor in inputs_of(tensors).items()}
    proto, session = export(module, kwargs=inputs)
    (node,) = (node for node in proto.graph.node if node.op_type == "DeformConv")
    exact = {name: t.double() for name, t in tensors.items()}
    expected = dcn.reference.deform_conv2d(**exact, **case.geometry)
    ours, theirs = module(**inputs).double(), run(session, *inputs.values()).double()
    least = torch.finfo(dtype).eps * expected.abs().max()
    assert (theirs - expected).abs().max() <= 2 * max((ours - expected).abs().max(), least)
    # In f16 the node itself is f16; where it cannot be, it is f32.
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    values = (*inferred.value_info, *inferred.output)
    (computed,) = (v.type.tensor_type.elem_type for v in values if v.name == node.output[0])
    in_f32 = dtype == torch.bfloat16 or offset_dtype != dtype
    names = {torch.float64: "DOUBLE", torch.float32: "FLOAT", torch.float16: "FLOAT16"}
    assert onnx.TensorProto.DataType.Name(computed) == ("FLOAT" if in_f32 else names[dtype])


@pytest.mark.parametrize("name", ["plain", "v1", "depthwise", "offset groups", "dilation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_tensorrt_s_parser_asks_for(name, dtype):
    """By its source: every input up to the last is there, all are of one dtype, f32 or f16, and the
    padding is the same at both ends. What it then computes is not tested: it needs a GPU."""
    case = named(name)
    tensors = case.tensors(dtype)
    module = Layer(case, tensors, io=torch.float32)
    proto, _ = export(module, kwargs={k: v.float() for k, v in inputs_of(tensors).items()})
    (node,) = (node for node in proto.graph.node if node.op_type == "DeformConv")
    assert all(node.input) and len(node.input) == (3 + (case.bias or case.mask) + case.mask)
    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.value_info, *graph.input)
    dtypes = {value.name: value.type.tensor_type.elem_type for value in values}
    dtypes |= {constant.name: constant.data_type for constant in graph.initializer}
    in_f16 = dtype == torch.float16
    expected = onnx.TensorProto.FLOAT16 if in_f16 else onnx.TensorProto.FLOAT
    assert {dtypes[name] for name in node.input} == {expected}
    (pads,) = (attribute.ints for attribute in node.attribute if attribute.name == "pads")
    assert pads[:2] == pads[2:] == list(case.geometry["padding"])


def test_dynamic_shapes():
    """A network of packs, strides and groups, for any batch and size."""
    module = model()
    axes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    proto, session = export(module, images(), dynamic_shapes=(axes,))
    assert sum(node.op_type == "DeformConv" for node in proto.graph.node) == 3
    assert session.get_inputs()[0].shape == ["n", 3, "h", "w"]
    for shape in ((2, 3, 10, 9), (5, 3, 8, 16), (1, 3, 33, 7)):
        x = torch.rand(shape)
        torch.testing.assert_close(run(session, x), module(x))


@pytest.mark.parametrize("opset", [None, 19, 22])
def test_opsets(opset):
    proto, session = export(model(), images(), opset_version=opset)
    (imported,) = proto.opset_import
    assert imported.version == opset or (opset is None and imported.version >= 19)
    torch.testing.assert_close(run(session, images()), model()(images()))


def test_the_function_class_is_the_same_node():
    case = named("plain")
    tensors = case.tensors(torch.float32)

    class Applied(nn.Module):
        def forward(self, *tensors):
            return dcn.DeformConv2dFunction.apply(*tensors, *case.geometry.values(), 1, 1)

    arguments = case.arguments(tensors)[:5]
    proto, session = export(Applied(), *arguments)
    assert [node.op_type for node in proto.graph.node] == ["DeformConv"]
    torch.testing.assert_close(run(session, *arguments), Applied()(*arguments))


def test_importing_dcn_imports_no_onnx():
    code = """
import sys
import dcn
loaded = [name for name in ("onnx", "onnxscript", "onnxruntime") if name in sys.modules]
assert dcn.onnx.translation_table and not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_onnxscript_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript, .*: pip install onnx onnxscript"):
        dcn.onnx.translation_table()
