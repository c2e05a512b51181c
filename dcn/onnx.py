"""Export to ONNX, where deformable convolution is the standard operator `DeformConv`.

Its functions need the package onnxscript, as PyTorch's exporter does; importing this module does
not.
"""

from collections.abc import Callable
from typing import Any

import torch

from . import _ops  # noqa: F401  (registers torch.ops.dcn)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` needs to know in order to write deformable convolutions.

    `torch.onnx.export(model, inputs, dynamo=True, custom_translation_table=translation_table())`
    writes each as one node `DeformConv`, with the dynamic shapes of the export. Opset 19 is the
    first that has it; PyTorch's default is newer.

    The node computes in the dtype of the model, and in f32 between casts for bf16 (which
    `DeformConv` has since opset 22, but ONNX Runtime not on CPUs) and for f16 beside f32 offsets or
    masks (its inputs must be of one dtype). For finite positions the values are those of
    `dcn.deform_conv2d`; a sample at a NaN position is NaN here and 0 in ONNX Runtime.

    Raises:
        ImportError: onnxscript is not installed.

    Source: https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "dcn.onnx.translation_table() needs onnxscript, as torch.onnx.export does: "
            "pip install onnx onnxscript"
        ) from error
    return {torch.ops.dcn.deform_conv2d.default: _deform_conv2d}


# Without annotations: the exporter takes them for ONNX types and evaluates them.
def _deform_conv2d(
    input, weight, offset, mask, bias, stride, padding, dilation, groups, offset_groups,
    im2col_step=0, packed_weight=None,
):  # fmt: skip
    """One call in the vocabulary of ONNX; the last two arguments are about speed on GPUs alone."""
    from onnxscript import ir
    from onnxscript.onnx_opset import opset19

    dtypes = {tensor.dtype for tensor in (input, weight, offset, mask, bias) if tensor is not None}
    in_f32 = len(dtypes) > 1 or ir.DataType.BFLOAT16 in dtypes
    if bias is None and mask is not None and isinstance(weight.shape[0], int):
        # A node may leave it out; TensorRT's parser reads its dtype wherever there is a mask.
        bias = opset19.CastLike(opset19.Constant(value_floats=[0.0] * weight.shape[0]), weight)
    tensors = [input, weight, offset, bias, mask]
    if in_f32:
        tensors = [t if t is None else opset19.Cast(t, to=ir.DataType.FLOAT) for t in tensors]
    out = opset19.DeformConv(
        *tensors,
        strides=tuple(stride),
        pads=(*padding, *padding),
        dilations=tuple(dilation),
        group=groups,
        offset_group=offset_groups,
    )
    return opset19.Cast(out, to=input.dtype) if in_f32 else out
