"""Turns the convolutions of a trained backbone into deformable ones."""

from collections.abc import Iterable, Iterator

from torch import nn

from .compat.families import is_ours
from .modules import ModulatedDeformConv2dPack


def convert_backbone(
    model: nn.Module,
    stages: Iterable[str] = ("layer2", "layer3", "layer4"),
    offset_groups: int = 1,
) -> nn.Module:
    """Swaps every 3x3 convolution in `stages` for a `ModulatedDeformConv2dPack`, in place.

    With zero offsets and a mask of 2 * sigmoid(0) = 1 the model computes at first what it
    computed before. Weight and bias stay the same `Parameter` objects, so an optimizer that holds
    them goes on; the new `conv_offset` parameters must be given to it. They take device, dtype,
    training flag and `requires_grad` from the convolution: frozen stays frozen.

    Args:
        model: a torchvision ResNet, or a model that holds one (`maskrcnn_resnet50_fpn`).
        stages: names of the submodules to convert, alone (`"layer3"`) or, where several have that
            name, with the path before it (`"backbone.body.layer3"`).
        offset_groups: the number of offset groups D of each pack.

    Returns:
        `model`.

    Raises:
        ValueError: a stage is missing, ambiguous or without a 3x3 convolution, or a convolution
            pads with something other than zeros. Nothing has been changed then.
    """
    swaps = []
    for stage in (stages,) if isinstance(stages, str) else stages:
        for parent, name, conv in _convolutions(model, stage):
            swaps.append((parent, name, _pack(conv, offset_groups)))
    for parent, name, pack in swaps:
        setattr(parent, name, pack)
    return model


def _convolutions(model: nn.Module, stage: str) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    modules = dict(model.named_modules())
    paths = [path for path in modules if path.endswith(f".{stage}")]
    if stage in modules:
        paths = [stage]
    if len(paths) != 1:
        count = f"{len(paths)} of them ({', '.join(paths)}): give a path" if paths else "none"
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"convert_backbone: expected one stage {stage!r} in {type(model).__name__}, but found "
            f"{count}; its modules are {names}"
        )
    found = [
        (parent, name, conv)
        for parent in _plain(modules[paths[0]])
        for name, conv in parent.named_children()
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
    ]
    if not found:
        raise ValueError(
            f"convert_backbone: stage {stage!r} has no 3x3 convolution; is it converted already?"
        )
    return found


def _plain(module: nn.Module) -> Iterator[nn.Module]:
    """The module and what it holds, without deformable layers: their offset networks stay."""
    if not is_ours(module):
        yield module
        for child in module.children():
            yield from _plain(child)


def _pack(conv: nn.Conv2d, offset_groups: int) -> ModulatedDeformConv2dPack:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(
            "convert_backbone: expected convolutions with a numeric padding of zeros, "
            f"but got padding {conv.padding!r} of {conv.padding_mode}"
        )
    pack = ModulatedDeformConv2dPack(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        bias=conv.bias is not None,
        offset_groups=offset_groups,
        mask_scale=2.0,
    )
    pack.to(conv.weight.device, conv.weight.dtype).train(conv.training)
    pack.conv_offset.requires_grad_(conv.weight.requires_grad)
    pack.weight, pack.bias = conv.weight, conv.bias
    return pack
