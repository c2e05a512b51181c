"""Converting a backbone: the same function at first, the same parameters, and clear refusals."""

import copy

import pytest
import torch
from torch import nn

import dcn

torchvision = pytest.importorskip("torchvision")

STAGES = ("layer2", "layer3", "layer4")


def packs(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, dcn.ModulatedDeformConv2dPack)
    }


def resnet(name="resnet18", **options):
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None, **options).eval()


@pytest.mark.parametrize(
    "name, options, count",
    [
        ("resnet18", {}, 12),
        ("resnet50", {}, 13),
        ("resnet50", {"replace_stride_with_dilation": [False, True, True]}, 13),
        ("resnext50_32x4d", {}, 13),
    ],
    ids=["resnet18", "resnet50", "dilated", "grouped"],
)
@torch.no_grad()
def test_the_first_output_is_that_of_the_plain_model(name, options, count):
    model = resnet(name, **options).double()
    x = torch.rand(1, 3, 64, 48, dtype=torch.float64)
    plain = model(x)
    assert dcn.convert_backbone(model) is model
    assert len(packs(model)) == count
    torch.testing.assert_close(model(x), plain)


@torch.no_grad()
def test_inside_mask_rcnn():
    torch.manual_seed(0)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    model.eval().double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    plain = model.backbone(x)
    dcn.convert_backbone(model, stages=("layer3", "layer4"), offset_groups=2)
    assert {name[:20] for name in packs(model)} == {"backbone.body.layer3", "backbone.body.layer4"}
    assert all(pack.offset_groups == 2 for pack in packs(model).values())
    deformable = model.backbone(x)
    for level, expected in plain.items():
        torch.testing.assert_close(deformable[level], expected)


def test_a_pack_takes_over_everything():
    model = resnet("resnext50_32x4d").double()
    model.layer3.train()
    model.layer4.requires_grad_(False)
    before = dict(model.named_modules())
    plain = {
        name: before[name] for name in before if name.endswith("conv2") and "layer1" not in name
    }
    dcn.convert_backbone(model)
    assert packs(model).keys() == plain.keys()
    for name, pack in packs(model).items():
        conv = plain[name]
        assert pack.weight is conv.weight and pack.bias is conv.bias is None
        for attribute in ("stride", "padding", "dilation", "groups", "kernel_size", "training"):
            assert getattr(pack, attribute) == getattr(conv, attribute), attribute
        assert pack.training == ("layer3" in name)
        for parameter in pack.conv_offset.parameters():
            assert parameter.dtype == torch.float64
            assert parameter.requires_grad == ("layer4" not in name)


def test_a_bias_is_kept_and_other_sizes_stay():
    model = nn.Module()
    model.stage = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, (3, 1))
    )
    bias = model.stage[0].bias
    dcn.convert_backbone(model, "stage")
    assert model.stage[0].bias is bias
    assert [type(module) for module in model.stage[1:]] == [nn.Conv2d, nn.Conv2d]


def test_it_trains():
    model = dcn.convert_backbone(resnet().train())
    loss = model(torch.rand(2, 3, 64, 64)).square().sum()
    loss.backward()
    for pack in packs(model).values():
        assert pack.conv_offset.weight.grad.abs().sum() > 0 and pack.weight.grad.abs().sum() > 0


def test_the_state_comes_back():
    model = dcn.convert_backbone(resnet())
    again = dcn.convert_backbone(resnet())
    again.load_state_dict(copy.deepcopy(model.state_dict()))


@pytest.mark.parametrize(
    "stages, message",
    [
        (("layer4", "layer9"), "expected one stage 'layer9' in ResNet, but found none; .*layer1"),
        (("layer4", "conv1"), "stage 'conv1' has no 3x3 convolution"),
        (("layer4", "conv2"), r"found 8 of them \(layer1.0.conv2, .*give a path"),
    ],
)
def test_a_wrong_stage_is_refused_and_nothing_changes(stages, message):
    model = resnet()
    with pytest.raises(ValueError, match=message):
        dcn.convert_backbone(model, stages)
    assert not packs(model)


def test_a_second_conversion_is_refused():
    model = dcn.convert_backbone(resnet(), ["layer4"])
    with pytest.raises(ValueError, match="is it converted already"):
        dcn.convert_backbone(model)
    assert len(packs(model)) == 4


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding_mode": "reflect"}], ids=str)
def test_other_paddings_are_refused(options):
    model = nn.ModuleDict({"stage": nn.Sequential(nn.Conv2d(3, 4, 3, **options))})
    with pytest.raises(ValueError, match="numeric padding of zeros"):
        dcn.convert_backbone(model, ["stage"])


def test_layers_of_any_family_stay_whole():
    """Their offset networks hold 3x3 convolutions too."""
    compat = dcn.compat
    alignment = compat.video.SecondOrderDeformableAlignment(8, 4, 3, padding=1, deform_groups=2)
    kept = [
        compat.birefnet.DeformableConv2d(4, 4),
        compat.dcnv2.DCN(4, 4, 3, 1, 1),
        alignment,
    ]
    model = nn.ModuleDict({"stage": nn.ModuleList([*kept, nn.Conv2d(4, 4, 3)])})
    before = [[type(module) for module in layer.modules()] for layer in kept]
    dcn.convert_backbone(model, ["stage"])
    assert before == [[type(module) for module in layer.modules()] for layer in kept]
    assert list(packs(model)) == ["stage.3"]
