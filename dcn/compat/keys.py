"""Checkpoint keys: how each family spells the weight of a layer and its offset convolution."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Spelling:
    """Where a layer at `path` keeps its parts; of two predictors the second is the mask's."""

    family: str
    conv: str
    predictors: tuple[str, ...]
    mask_scale: float = 1.0

    def keys(self, template: str, path: str) -> tuple[str, str]:
        module = template.format(path=path).lstrip(".")  # at the root there is no path
        return f"{module}.weight".lstrip("."), f"{module}.bias".lstrip(".")

    def fits(self, keys: dict[str, Tensor], path: str) -> bool:
        templates = (self.conv, *self.predictors)
        return all(self.keys(template, path)[0] in keys for template in templates)


_SPELLINGS = (
    _Spelling("mmcv or dcn", "{path}", ("{path}.conv_offset",)),
    _Spelling("CharlesShang or mmdet 1", "{path}", ("{path}.conv_offset_mask",)),
    _Spelling("detectron2 or mmcv before 1.0", "{path}", ("{path}_offset",)),
    _Spelling("PaddleDetection", "{path}.conv_dcn", ("{path}.conv_offset",)),
    _Spelling(
        "BiRefNet", "{path}.regular_conv", ("{path}.offset_conv", "{path}.modulator_conv"), 2.0
    ),
)


def translate_keys(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of any family under the keys of `model`, whichever family its layers are of.

    `model.load_state_dict(dcn.compat.translate_keys(checkpoint, model))`. Keys of layers that are
    spelled alike, and those of everything else, stay as they are. BiRefNet's two predictors become
    one; the other way is refused, since nothing in a checkpoint says that its masks are doubled.

    Args:
        state_dict: the checkpoint; it is not changed.
        model: the module whose keys are wanted; its layers may be of any package.

    Raises:
        ValueError: the two families scale the mask differently (BiRefNet: twice a sigmoid), so
            that the weights would compute something else.
    """
    wanted, translated = model.state_dict(), copy.copy(state_dict)
    for path, layer in model.named_modules():
        target, source = (
            next((spelling for spelling in _SPELLINGS if spelling.fits(keys, path)), None)
            for keys in (wanted, translated)
        )
        if target is None or source is None or source is target:
            continue
        expected = getattr(layer, "mask_scale", target.mask_scale)
        if source.mask_scale != expected:
            raise ValueError(
                f"translate_keys: layer {path!r} scales its mask by {expected:g}, but that of the "
                f"checkpoint ({source.family}) by {source.mask_scale:g}"
            )
        _move(translated, path, source, target)
    return translated


def _move(state_dict: dict[str, Tensor], path: str, source: _Spelling, target: _Spelling) -> None:
    for old, new in zip(
        source.keys(source.conv, path), target.keys(target.conv, path), strict=True
    ):
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
    olds, news = (
        zip(*(one.keys(template, path) for template in one.predictors), strict=True)
        for one in (source, target)
    )
    for old, (new,) in zip(olds, news, strict=True):  # the weights, then the biases
        state_dict[new] = torch.cat([state_dict.pop(key) for key in old])
