"""ONNX Runtime's DeformConv of a benchmark layer, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dcn.bench import Inputs

NAMES = ("input", "weight", "offset", "bias", "mask")


def onnxruntime_run(data: Inputs) -> Callable[[], object]:
    """A callable that runs the layer's forward pass; needs the packages onnx and onnxruntime."""
    import onnxruntime
    from onnx import TensorProto, helper

    layer = data.layer
    node = helper.make_node(
        "DeformConv", list(NAMES), ["output"], kernel_shape=[layer.k] * 2,
        strides=[layer.stride] * 2, pads=[layer.pad] * 4, dilations=[layer.dilation] * 2,
        group=layer.groups, offset_group=layer.offset_groups,
    )  # fmt: skip
    feeds = {name: getattr(data, name).detach().contiguous().numpy() for name in NAMES}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, feeds[name].shape) for name in NAMES
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "layer", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, feeds)
