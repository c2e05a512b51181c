"""The modules: what they take from torchvision and mmcv, and what the packs compute."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcn

PACKS = [dcn.DeformConv2dPack, dcn.ModulatedDeformConv2dPack]
GEOMETRY = ("stride", "padding", "dilation")


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 1), "stride": 2, "padding": (1, 0), "dilation": 2, "groups": 2},
        {"kernel_size": 1, "bias": False, "dilation": (1, 2)},
    ],
    ids=str,
)
def test_the_module_is_that_of_torchvision(options):
    torchvision = pytest.importorskip("torchvision")
    ours, theirs = (
        (torch.manual_seed(0), module(4, 6, **options))[1]
        for module in (dcn.DeformConv2d, torchvision.ops.DeformConv2d)
    )
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    x = torch.rand(2, 4, 9, 8)
    size = F.conv2d(x, ours.weight, None, *(getattr(ours, name) for name in GEOMETRY), ours.groups)
    taps = ours.kernel_size[0] * ours.kernel_size[1]
    offset, mask = (torch.rand(2, maps, *size.shape[2:]) for maps in (2 * taps, taps))
    torch.testing.assert_close(ours(x, offset), theirs(x, offset))
    torch.testing.assert_close(ours(x, offset, mask=mask), theirs(x, offset, mask=mask))


@pytest.mark.parametrize("module", [dcn.DeformConv2d, *PACKS])
def test_channels_must_be_divisible_by_groups(module):
    with pytest.raises(ValueError, match="in_channels must be divisible by groups: 4 and 3"):
        module(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="out_channels must be divisible by groups: 5 and 2"):
        module(4, 5, 3, groups=2)


@pytest.mark.parametrize("pack, per_tap", [(PACKS[0], 2), (PACKS[1], 3)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (7, 7)])
@pytest.mark.parametrize("name", ["deform_groups", "offset_groups"])
def test_a_pack_has_the_parameters_of_mmcv(pack, per_tap, kernel, name):
    module = pack(4, 6, kernel, groups=2, bias=True, **{name: 4})
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {
        "weight": (6, 2, *kernel),
        "bias": (6,),
        "conv_offset.weight": (per_tap * 4 * kernel[0] * kernel[1], 4, *kernel),
        "conv_offset.bias": (per_tap * 4 * kernel[0] * kernel[1],),
    }
    assert all(not parameter.any() for parameter in module.conv_offset.parameters())
    assert module.weight.any()


def test_the_arguments_of_mmcv_by_position():
    module = dcn.ModulatedDeformConv2dPack(8, 4, 3, 2, 1, 1, 2, 4, False, 32)
    assert (module.stride, module.padding, module.dilation) == ((2, 2), (1, 1), (1, 1))
    assert (module.groups, module.offset_groups, module.im2col_step) == (2, 4, 32)
    assert module.bias is None
    assert dcn.DeformConv2dPack(8, 4, 3).bias is None
    assert dcn.ModulatedDeformConv2dPack(8, 4, 3).bias is not None


def test_offset_groups_are_checked():
    with pytest.raises(ValueError, match="divisible by offset_groups: 4 and 3"):
        dcn.DeformConv2dPack(4, 6, 3, offset_groups=3)
    with pytest.raises(ValueError, match="two names of one number, but got 2 and 4"):
        dcn.DeformConv2dPack(4, 6, 3, deform_groups=2, offset_groups=4)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "groups": 2, "offset_groups": 2}, {"dilation": (2, 1), "im2col_step": 1}],
    ids=str,
)
def test_a_pack_starts_as_a_convolution(pack, options, device):
    modulated = pack is dcn.ModulatedDeformConv2dPack
    options = options | ({"mask_scale": 2.0} if modulated else {})
    module = pack(4, 6, 3, padding=1, bias=True, **options).double().to(device)
    x = torch.rand(3, 4, 9, 8, dtype=torch.float64, device=device)
    geometry = (getattr(module, name) for name in GEOMETRY)
    expected = F.conv2d(x, module.weight, module.bias, *geometry, module.groups)
    torch.testing.assert_close(module(x), expected)
    if modulated:
        module.mask_scale = 1.0
        torch.testing.assert_close(
            module(x) - module.bias[:, None, None], (expected - module.bias[:, None, None]) / 2
        )


def trained(module: nn.Module) -> nn.Module:
    """As if it had learned offsets."""
    torch.manual_seed(1)
    for parameter in module.conv_offset.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def test_automatic_mode_is_the_formula_of_mmcv(device):
    options = {"stride": 2, "padding": 1, "groups": 2, "deform_groups": 2}
    module = dcn.ModulatedDeformConv2dPack(4, 6, 3, mask_scale=1.5, **options)
    trained(module).to(device)
    x = torch.rand(2, 4, 9, 8, device=device)
    first, second, logits = module.conv_offset(x).chunk(3, dim=1)
    offset, mask = torch.cat([first, second], dim=1), 1.5 * logits.sigmoid()
    expected = dcn.deform_conv2d(x, offset, module.weight, module.bias, 2, 1, mask=mask)
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x, offset, mask), expected)
    v1 = dcn.deform_conv2d(x, offset, module.weight, module.bias, 2, 1)
    torch.testing.assert_close(module(x, offset), v1)


def test_automatic_mode_without_a_mask(device):
    module = trained(dcn.DeformConv2dPack(4, 6, (5, 1), padding=(2, 0))).to(device)
    x = torch.rand(2, 4, 9, 8, device=device)
    offset = module.conv_offset(x)
    expected = dcn.deform_conv2d(x, offset, module.weight, padding=(2, 0))
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x, offset), expected)


@pytest.mark.parametrize("pack", PACKS)
def test_a_mask_without_an_offset_is_refused(pack):
    module = pack(4, 6, 3, padding=1)
    with pytest.raises(ValueError, match="a mask was passed without an offset"):
        module(torch.rand(1, 4, 5, 5), mask=torch.rand(1, 9, 5, 5))


def test_a_pack_does_not_guess_its_groups():
    module = dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1, offset_groups=2)
    with pytest.raises(RuntimeError, match=r"offset.shape\[1\] is not valid: got: 18 expected: 36"):
        module(torch.rand(1, 4, 5, 5), torch.rand(1, 18, 5, 5))


def test_im2col_step_reaches_the_operator():
    module = dcn.DeformConv2dPack(4, 6, 3, padding=1, im2col_step=5)
    with mock.patch.object(torch.ops.dcn, "deform_conv2d", wraps=torch.ops.dcn.deform_conv2d) as op:
        module(torch.rand(1, 4, 5, 5))
    assert op.call_args.args[10] == 5


@pytest.mark.parametrize("pack", PACKS)
def test_the_activation_comes_last(pack):
    x = torch.rand(1, 4, 5, 5)
    for activation in (F.relu, nn.ReLU()):
        module = pack(4, 6, 3, activation=activation)
        out = module(x)
        module.activation = nn.Identity()
        assert torch.equal(out, module(x).relu()) and not torch.equal(out, module(x))


def test_a_pack_shows_what_is_its_own():
    module = dcn.ModulatedDeformConv2dPack(
        4, 6, 3, padding=1, offset_groups=2, mask_scale=2, activation=nn.ReLU()
    )
    assert repr(module) == (
        "ModulatedDeformConv2dPack(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), "
        "offset_groups=2, activation=ReLU(), mask_scale=2)"
    )


@pytest.mark.parametrize("pack", PACKS)
def test_offsets_learn_from_the_first_step(pack, device):
    torch.manual_seed(0)
    module = pack(4, 6, 3, padding=1).to(device)
    module(torch.rand(2, 4, 9, 8, device=device)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_channels_last_stays(device):
    module = trained(dcn.ModulatedDeformConv2dPack(4, 6, 3, padding=1)).to(device)
    x = torch.rand(2, 4, 9, 8, device=device)
    plain = module(x)
    module.to(memory_format=torch.channels_last)
    last = module(x.contiguous(memory_format=torch.channels_last))
    assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, last)


def test_a_pack_learns_a_shift(device):
    """The target is the image moved by 1.5 px; the weight is fixed, so the offset must learn it."""
    torch.manual_seed(0)
    module = dcn.DeformConv2dPack(1, 1, 1).to(device)
    nn.init.ones_(module.weight).requires_grad_(False)
    image = torch.linspace(0, 3, 32, device=device).sin().expand(1, 1, 32, 32).contiguous()
    shift = torch.zeros(1, 2, 32, 32, device=device)
    shift[:, 1] = 1.5
    target = dcn.deform_conv2d(image, shift, module.weight).detach()
    optimizer = torch.optim.Adam(module.conv_offset.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(module(image)[..., 2:-3], target[..., 2:-3])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 100
