"""Where taps are followed to: by hand, and against the gradient, which knows what was read."""

import pytest
import torch
from torch import nn

import dcn
from dcn.observe import Call, run_observed
from dcn.taps import follow


def call(offset=None, mask=None, *, size=(8, 8), kernel=(3, 3), stride=1, padding=1, dilation=1):
    if offset is None:
        out = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
               for n, k in zip(size, kernel, strict=True)]  # fmt: skip
        offset = torch.zeros(1, 2 * kernel[0] * kernel[1], *out)
    pairs = ((one, one) for one in (stride, padding, dilation))
    return Call("layer", size, kernel, *pairs, offset, mask)


def test_one_layer_without_offsets_is_the_grid():
    (taps,) = follow([call()], (8, 8), [(3, 5)])
    grid = torch.cartesian_prod(torch.arange(2.0, 5), torch.arange(4.0, 7))
    assert torch.equal(taps.sampled, grid) and torch.equal(taps.regular, grid)
    assert taps.centre.tolist() == [3, 5] and torch.equal(taps.mask, torch.ones(9))


def test_offsets_and_masks_are_those_of_the_pixel_and_the_group():
    offset, mask = torch.zeros(1, 36, 8, 8), torch.rand(1, 18, 8, 8)
    offset[0, 18 + 2 * 7, 3, 5], offset[0, 18 + 2 * 7 + 1, 3, 5] = 1.25, -0.5  # tap 7 of group 1
    (taps,) = follow([call(offset, mask)], (8, 8), [(3.4, 4.6)], group=1)
    moved = taps.sampled - taps.regular
    assert moved[7].tolist() == [1.25, -0.5] and moved.abs().sum() == 1.75
    assert torch.equal(taps.mask, mask[0, 9:, 3, 5])
    (taps,) = follow([call(offset, mask)], (8, 8), [(3, 5)], group=0)
    assert torch.equal(taps.sampled, taps.regular)
    assert torch.equal(taps.mask, mask[0, :9, 3, 5])


def test_a_map_is_as_many_times_smaller_as_its_strides_made_it():
    # 150 px are 75, 38, 19, 10 and 5: the stride is 32, though 150 / 5 is 30.
    (taps,) = follow([call(size=(5, 8))], (150, 256), [(64, 96)])
    assert taps.centre.tolist() == [64, 96]
    assert (taps.sampled[8] - taps.sampled[0]).tolist() == [64, 64]


def test_stride_padding_and_dilation_move_the_centre():
    one = call(size=(12, 12), stride=2, padding=0, dilation=2)
    (taps,) = follow([one], (12, 12), [(6.4, 3.9)])  # centres lie at 2, 4, 6, ...
    assert taps.centre.tolist() == [6, 4]
    assert torch.equal(taps.sampled.mean(0), taps.centre)
    assert (taps.sampled[8] - taps.sampled[0]).tolist() == [4, 4]


def test_a_point_at_the_border_takes_the_nearest_pixel():
    one = call(size=(12, 12), padding=0)
    (taps,) = follow([one], (12, 12), [(0, 11)])
    assert taps.centre.tolist() == [1, 10]


@pytest.mark.parametrize("depth", [2, 3])
def test_depth_raises_the_number_to_a_power(depth):
    (taps,) = follow([call(size=(16, 16))] * depth, (16, 16), [(8, 8)])
    assert len(taps.sampled) == len(taps.regular) == len(taps.mask) == 9**depth
    assert taps.sampled.amin(0).tolist() == [8 - depth] * 2
    assert taps.sampled.amax(0).tolist() == [8 + depth] * 2


def test_what_lies_outside_or_nowhere_is_followed_no_further():
    (taps,) = follow([call()] * 2, (8, 8), [(0, 0)])
    assert len(taps.sampled) == 4 * 9  # of nine taps at a corner four are inside
    offset = torch.zeros(1, 18, 8, 8)
    offset[0, 0], offset[0, 3], offset[0, 5] = float("nan"), float("inf"), -1e30
    (taps,) = follow([call(), call(offset)], (8, 8), [(4, 4)])
    assert len(taps.sampled) == 6 * 9 and len(taps.regular) == 81


class Stack(nn.Module):
    """Deformable layers with whole offsets and a weight of 1, strides and masks on the way."""

    def __init__(self, strides, dilations) -> None:
        super().__init__()
        self.strides, self.dilations = strides, dilations
        self.seed = 0

    def forward(self, x):
        generator = torch.Generator().manual_seed(self.seed)
        for stride, dilation in zip(self.strides, self.dilations, strict=True):
            p, q = (size // stride for size in x.shape[2:])
            offset = torch.randint(-3, 4, (1, 18, p, q), generator=generator).double()
            mask = torch.rand(1, 9, p, q, generator=generator).double()
            weight = x.new_ones(1, 1, 3, 3)
            x = dcn.deform_conv2d(
                x, offset, weight, None, stride, dilation, dilation, None if stride == 2 else mask
            )
        return x


@pytest.mark.parametrize(
    "strides, dilations", [((1,), (1,)), ((1, 1, 1), (1, 2, 1)), ((2, 1, 2), (1, 1, 1))]
)
@pytest.mark.parametrize("pixel", [(2, 1), (0, 3)])
def test_the_gradient_of_a_pixel_lies_where_its_taps_sample(strides, dilations, pixel):
    model = Stack(strides, dilations)
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    model(image)[0, 0, pixel[0], pixel[1]].backward()
    calls = []
    run_observed(model, (image,), {}, calls.append)
    stride = torch.tensor(strides).prod().item()
    (taps,) = follow(calls, (16, 16), [(stride * pixel[0], stride * pixel[1])])
    assert taps.centre.tolist() == [stride * pixel[0], stride * pixel[1]]
    y, x = taps.sampled.long().unbind(1)
    inside = (y >= 0) & (y < 16) & (x >= 0) & (x < 16)
    weights = torch.zeros(16, 16, dtype=torch.float64)
    weights.index_put_((y[inside], x[inside]), taps.mask[inside].double(), accumulate=True)
    torch.testing.assert_close(weights, image.grad[0, 0], rtol=1e-5, atol=1e-6)
