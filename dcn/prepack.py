"""Weights in the order of the kernels, packed once instead of in every call."""

from contextlib import suppress

from torch import nn

from .modules import DeformConv2d

# D of a layer: ours, mmcv's, and that of detectron2 and DCNv2.
_OFFSET_GROUPS = ("offset_groups", "deform_groups", "deformable_groups")


def prepack(module: nn.Module, offset_groups: int = 1) -> nn.Module:
    """Packs the weights of the deformable layers of `module`, itself included, for inference.

    The fused forward pass begins by bringing the weight into the order in which it reads it, in
    every call. A prepacked layer has done that before: the same bits, one launch less. Values and
    gradients are those of `weight`, which stays as it is, and so does the state dict; the packed
    copy is a buffer beside it, about as large (in float32 without TF32 twice that, up to 16 MiB).

    The copy serves calls with the arithmetic of the moment it was made in: the weight's dtype, or
    autocast's if `prepack` was called under it, and in float32 PyTorch's TF32 switch for
    convolutions. Any other call, and one on another device, packs for itself as ever;
    `dcn.last_plan().prepacked` says which it was.

    A weight that is changed afterwards in place (or through `.data`) is **not seen until `prepack`
    is called again**. `module.train()`, `load_state_dict` and a change of dtype drop the copy; a
    move to another device takes it along, and so do `copy.deepcopy` and CUDA graphs.

    Args:
        module: in eval mode; a model, or a layer. Served are the layers of `dcn`, converted ones,
            and all of `dcn.compat` but BiRefNet's; calls of functions are not. Layers that fused
            would not run stay as they are: on CPUs and on GPUs of another compute capability than
            9.x, in float64, with small groups of many output channels.
        offset_groups: D of the layers that take their offset as an argument (`DeformConv2d`), which
            do not know it. Called with another D, they pack for themselves.

    Returns:
        `module`.

    Raises:
        ValueError: a layer is in training mode, where its weight is about to change.
        RuntimeError: `offset_groups` does not divide the channels of a layer.
    """
    layers = {
        path: layer for path, layer in module.named_modules() if isinstance(layer, DeformConv2d)
    }
    for path, layer in layers.items():
        if layer.training:
            raise ValueError(
                "prepack: expected layers in eval mode, but "
                f"{path or 'the module'} is in training mode: call .eval() first"
            )
    for layer in layers.values():
        own = (getattr(layer, name) for name in _OFFSET_GROUPS if hasattr(layer, name))
        with suppress(NotImplementedError):  # no call would take it
            layer.pack_weight(next(own, offset_groups))
    return module
