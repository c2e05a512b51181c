"""The fused forward pass with weights packed before: the same bits as without.

Beside every tile and split that the plan accepts: graphs, compiled models, calls in a row, and
packed weights that do not fit their call.
"""

import copy

import pytest
import torch
from cases import Case
from fused_cases import (
    ARITHMETICS,
    EACH_ARITHMETIC,
    FEW,
    LAYOUTS,
    SMALL,
    STURDY,
    channels,
    choices,
    draw,
    in_layout,
    needs_gpu,
    packed_sizes,
    poisoned,
    run,
    sm80_tiles,
    tf32_as,
)
from torch import nn

import dcn

pytestmark = needs_gpu

PACKS = [dcn.DeformConv2dPack, dcn.ModulatedDeformConv2dPack]


def pack(case: Case, kind, weight: torch.Tensor) -> torch.Tensor:
    with tf32_as(kind):
        packed = torch.ops.dcn.pack_weight(weight, case.groups, case.offset_groups)
    assert list(packed.shape) == packed_sizes(case, kind)
    return packed


def run_packed(case: Case, kind, tensors, packed, tile: int = -1, split_k: int = 0):
    """The output, and whether the call took the packed weight."""
    with tf32_as(kind), dcn.force_algorithm("fused", tile=tile, split_k=split_k):
        out = torch.ops.dcn.deform_conv2d(*case.arguments(tensors), 0, packed)
    return out, dcn.last_plan().prepacked


PACKED_CASES = [
    *FEW,
    channels(1, k=17), channels(33, k=40), channels(64, k=100), channels(64, k=200),
    channels(64, k=320), channels(16, 2, k=64), channels(128, 16, k=130), channels(30, 2, k=200),
    channels(128, g=2, k=130), channels(256, 4, 2, k=260), channels(384, 3, 2, k=140),
    channels(256, g=32), channels(128, g=128, k=256),
    channels(512, k=520),
    Case("7x7", n=1, c=130, size=(8, 8), k=136, kernel=(7, 7), padding=(3, 3), offset_groups=2),
    Case("1x1", c=64, size=(9, 13), k=256, kernel=(1, 1), padding=(0, 0), mask=False, bias=False),
]  # fmt: skip


@pytest.mark.parametrize("case", PACKED_CASES, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_the_same_bits_as_without(case, kind):
    tensors = draw(case, kind)
    with poisoned():
        packed = pack(case, kind, tensors["weight"])
    theirs = sm80_tiles(case, kind)
    for layout in LAYOUTS:
        given = in_layout(tensors, layout)
        for tile, split_k in choices(case, kind):
            expected = run(case, kind, given, tile, split_k)
            with poisoned():
                out, took = run_packed(case, kind, given, packed, tile, split_k)
            assert took == (tile not in theirs), (tile, split_k)
            assert torch.equal(out, expected), (layout, tile, split_k)


@EACH_ARITHMETIC
def test_the_weight_may_lie_anyhow(kind):
    tensors = draw(STURDY, kind)
    weight = tensors["weight"]
    packed = pack(STURDY, kind, weight)
    last = weight.contiguous(memory_format=torch.channels_last)
    for other in (last, weight.mT.contiguous().mT, weight.flip(0).contiguous().flip(0)):
        assert torch.equal(pack(STURDY, kind, other), packed)


@EACH_ARITHMETIC
def test_a_packed_weight_that_does_not_fit_is_left(kind):
    tensors = draw(STURDY, kind)
    expected = run(STURDY, kind, tensors)
    packed = pack(STURDY, kind, tensors["weight"])
    others = [each for each in ARITHMETICS if each is not kind]
    wrong = [pack(STURDY, each, tensors["weight"].to(each.dtype)) for each in others]
    wrong += [packed.cpu(), packed.mT, packed[1:], packed.double(), packed.view(-1)]
    room = torch.empty(packed.numel() + 1, dtype=packed.dtype, device="cuda")
    wrong.append(room[1:].view_as(packed).copy_(packed))  # not aligned
    for each in wrong:
        out, took = run_packed(STURDY, kind, tensors, each)
        assert not took and torch.equal(out, expected)
    out, took = run_packed(STURDY, kind, tensors, packed)
    assert took and torch.equal(out, expected)


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@EACH_ARITHMETIC
def test_in_a_graph(case, kind):
    """Counters of a split begin at zero each time; the second call reads what the first writes."""
    tensors = draw(case, kind)
    packed = pack(case, kind, tensors["weight"])
    for tile, split_k in choices(case, kind):
        if tile in sm80_tiles(case, kind):
            continue

        def chain(packed, tile=tile, split_k=split_k):
            first = run_packed(case, kind, tensors, packed, tile, split_k)[0]
            moved = tensors["offset"] + first.float().mean().to(kind.dtype)
            return run_packed(case, kind, tensors | {"offset": moved}, packed, tile, split_k)[0]

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            chain(packed)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = chain(packed)
        for factor in (1.0, -2.0, -0.5):
            tensors["input"].mul_(factor)
            out.fill_(torch.nan)
            for _ in range(3):
                graph.replay()
            assert torch.equal(out, chain(None)), (tile, split_k)


@EACH_ARITHMETIC
def test_calls_that_follow_one_another_wait(kind):
    """Nothing lies between two calls: the later one's offsets are what the earlier one writes."""
    case = Case("", n=2, c=18, size=(32, 32), k=18, bias=False)
    tensors = draw(case, kind)
    packed = pack(case, kind, tensors["weight"])

    def chain(packed):
        offset = tensors["offset"]
        for _ in range(20):
            offset = run_packed(case, kind, tensors | {"offset": offset}, packed)[0]
        return offset

    expected = chain(None)
    assert all(torch.equal(chain(packed), expected) for _ in range(5))


@EACH_ARITHMETIC
def test_gradients_are_those_of_the_weight(kind):
    tensors = draw(SMALL, kind, requires_grad=True)
    packed = pack(SMALL, kind, tensors["weight"])
    assert not packed.requires_grad
    gradients = []
    for given in (None, packed):
        out, took = run_packed(SMALL, kind, tensors, given)
        assert took == (given is not None)
        gradients.append(torch.autograd.grad(out.sum(), tensors["weight"])[0])
    assert torch.equal(*gradients)


def model_of(make, kind) -> nn.Module:
    torch.manual_seed(0)
    layer = make(64, 96, 3, padding=1, offset_groups=2).to("cuda", kind.dtype).eval()
    nn.init.normal_(layer.conv_offset.weight, std=0.02)
    return nn.Sequential(layer, nn.ReLU())


@pytest.mark.parametrize("make", PACKS)
@EACH_ARITHMETIC
def test_a_prepacked_model(make, kind):
    model = model_of(make, kind)
    x = torch.randn(2, 64, 24, 24, device="cuda", dtype=kind.dtype)
    with tf32_as(kind), torch.no_grad():
        expected = model(x)
        assert not dcn.last_plan().prepacked
        assert dcn.prepack(model) is model
        for each in (model, copy.deepcopy(model), torch.inference_mode()(model)):
            out = each(x)
            assert dcn.last_plan().prepacked and "packed before" in str(dcn.last_plan())
            assert torch.equal(out, expected)
        model.cpu()
        model.cuda()
        assert torch.equal(model(x), expected) and dcn.last_plan().prepacked
        model[0].weight.neg_()
        assert torch.equal(model(x), expected)  # not seen, as documented
        fresh = dcn.prepack(model)(x)
        assert dcn.last_plan().prepacked and not torch.equal(fresh, expected)
        model.train().eval()
        assert torch.equal(model(x), fresh) and not dcn.last_plan().prepacked


def test_the_switch_may_change():
    tf32, f32 = (next(k for k in ARITHMETICS if k.name == name) for name in ("tf32", "f32"))
    model, x = model_of(PACKS[1], f32), torch.randn(2, 64, 24, 24, device="cuda")
    with torch.no_grad():
        for packed_for, other in ((tf32, f32), (f32, tf32)):
            with tf32_as(packed_for):
                dcn.prepack(model)
                model(x)
                assert dcn.last_plan().prepacked
            with tf32_as(other):
                out = model(x)
                assert not dcn.last_plan().prepacked
                assert torch.equal(out, copy.deepcopy(model).train()(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prepacked_under_autocast(dtype):
    model = model_of(PACKS[1], next(k for k in ARITHMETICS if k.name == "f32"))
    x = torch.randn(2, 64, 24, 24, device="cuda")
    with torch.no_grad():
        with torch.autocast("cuda", dtype):
            expected = model(x)
            dcn.prepack(model)
            assert model[0].packed_weight.dtype == dtype
            assert torch.equal(model(x), expected) and dcn.last_plan().prepacked
        model(x)
        assert not dcn.last_plan().prepacked


@EACH_ARITHMETIC
def test_a_compiled_model(kind):
    model = model_of(PACKS[1], kind)
    x = torch.randn(2, 64, 24, 24, device="cuda", dtype=kind.dtype)
    with tf32_as(kind), torch.no_grad():
        expected = model(x)
        compiled = torch.compile(dcn.prepack(model), backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), expected) and dcn.last_plan().prepacked


def test_layers_that_nothing_serves_stay_as_they_are():
    layers = [dcn.DeformConv2dPack(64, 4096, 3, groups=64), dcn.DeformConv2dPack(8, 8, 3).double()]
    model = dcn.prepack(nn.Sequential(*layers).cuda().eval())
    assert all(layer.packed_weight is None for layer in model)
