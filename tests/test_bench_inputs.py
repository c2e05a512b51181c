"""What benchmarks are given: offsets of each kind, and gradients that are asked for."""

import pytest
import torch

from dcn import bench, reference
from dcn.layers import LAYERS, VARIANTS, Layer

SMALL = Layer("small", "", N=2, C=8, H=12, W=9, K=8, stride=2, offset_groups=2)


def positions(data: bench.Inputs):
    layer = data.layer
    geometry = (layer.k, layer.k), layer.stride, layer.pad, layer.dilation
    return reference.positions(data.offset.detach(), *geometry)


def test_clustered_samples_lie_around_one_pixel():
    data = bench.make_inputs(SMALL, torch.float32, "cpu", clustered=True)
    y, x = positions(data)
    assert y.shape == (2, 2, 9, 6, 5)
    for place, middle in ((y, 6), (x, 4)):
        assert ((place - middle).abs() <= 1).all()
        assert place.std() > 0.3
    spread, _ = positions(bench.make_inputs(SMALL, torch.float32, "cpu"))
    assert ((spread - 6).abs() > 2).any()


def test_what_is_frozen_has_no_gradient():
    data = bench.make_inputs(SMALL, torch.float32, "cpu", frozen=("weight", "bias"))
    assert [id(leaf) for leaf in data.leaves(deformable=False)] == [id(data.input)]
    ours = data.leaves(deformable=True)
    assert list(map(id, ours)) == [id(data.input), id(data.offset), id(data.mask)]
    runs = bench.competitors(data, torchvision=False, backward=True)
    assert [grad.shape for grad in runs["dcn"]()] == [leaf.shape for leaf in ours]
    assert len(runs["conv"]()) == 1


def test_deterministic_mode_is_left_behind():
    seen = []

    def run():
        seen.append(torch.are_deterministic_algorithms_enabled())
        seen.append(torch.utils.deterministic.fill_uninitialized_memory)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        bench.in_deterministic_mode(run)()
    assert seen == [True, False]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_layers_have_names_of_their_own():
    names = [layer.name for layer in LAYERS + VARIANTS]
    assert len(set(names)) == len(names)
