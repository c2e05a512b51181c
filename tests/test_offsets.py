"""Looking at offsets: the table of a model, worked out by hand, and the warning in a run."""

import contextlib
import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

import dcn


class Model(nn.Module):
    """Every way to come to the operator: a pack, the module, the function, a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.pack = dcn.ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        self.offset = nn.Conv2d(4, 18, 1)
        self.bare = dcn.DeformConv2d(4, 4, 3, padding=1)
        self.inner = nn.ModuleDict({"function": Function()})
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4).eval()
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x):
        x = self.pack(self.pack(x))
        return self.frozen(self.norm(self.inner["function"](self.bare(x, self.offset(x)))))


class Function(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4, 1, 1))
        self.register_buffer("offset", torch.zeros(2, 2, 8, 8))

    def forward(self, x):
        return dcn.deform_conv2d(x, self.offset[: len(x)], self.weight)


class Trial(nn.Module):
    """One layer several times, by its own function, after a part that fails."""

    def __init__(self, *lengths: float) -> None:
        super().__init__()
        self.lengths = lengths
        self.part = Function()

    def forward(self, x):
        with contextlib.suppress(RuntimeError):
            self.part(x[:, :3])
        for length in self.lengths:
            offset = torch.full((len(x), 2, 8, 8), length / 2**0.5)
            x = dcn.deform_conv2d(x, offset, torch.ones(4, 4, 1, 1))
        return x


@pytest.fixture
def model(device) -> Model:
    return Model().to(device)


def batch(model) -> torch.Tensor:
    return torch.rand(2, 4, 8, 8, device=model.pack.weight.device)


def test_every_layer_is_a_row(model):
    stats = dcn.offset_stats(model, batch(model))
    assert [row.layer for row in stats] == ["pack", "bare", "inner.function"]
    assert [row.calls for row in stats] == [2, 1, 1]
    assert [row.mask_mean for row in stats] == [0.5, None, None]
    for row in stats:
        assert (row.mean, row.largest, row.not_finite, row.size) == (0, 0, 0, (8, 8))
        assert row.outside == row.outside_before
        assert row.remark == "every offset is 0"
    # Of 9 taps at 64 pixels, those at row or column -1 and 8: 3 * 8 at each side, corners once.
    assert stats["pack"].outside == pytest.approx((4 * 3 * 8 - 4) / (9 * 64))
    assert stats["inner.function"].outside == 0


def test_the_figures_are_those_of_the_offsets(model):
    function = model.inner["function"]
    function.offset[0, 0, 0, 0], function.offset[0, 1, 0, 0] = -3, 4  # length 5, row -3: outside
    function.offset[1, 1, 7, 7] = 0.5  # column 7.5: inside
    function.offset[1, 0, 7, 0] = 1  # row 8: outside
    row = dcn.offset_stats(model, batch(model))["inner.function"]
    assert row.mean == pytest.approx((5 + 0.5 + 1) / 128)
    assert (row.largest, row.outside, row.outside_before) == (5, 2 / 128, 0)
    assert row.remark == ""
    function.offset[0, 0, 0, 0] = -9
    row = dcn.offset_stats(model, batch(model))["inner.function"]
    assert row.remark == "reaches beyond its 8 x 8 map"
    function.offset.zero_()
    function.offset[:, 1] = 2  # the last two columns of 8 leave the map
    row = dcn.offset_stats(model, batch(model))["inner.function"]
    assert row.outside == pytest.approx(0.25) and row.remark == "many samples were moved outside"


def test_what_is_not_finite_is_counted_apart(model):
    function = model.inner["function"]
    function.offset[0, 0, 0, :2] = torch.tensor([math.nan, math.inf])
    function.offset[0, 1, 0, 2] = 3
    row = dcn.offset_stats(model, batch(model))["inner.function"]
    assert row.not_finite == 2 / 128 and row.remark == "NaN or infinite offsets"
    assert row.mean == pytest.approx(3 / 126) and row.largest == 3
    assert row.outside == 1 / 128  # the infinite one; a NaN is nowhere
    function.offset.fill_(math.nan)
    row = dcn.offset_stats(model, batch(model))["inner.function"]
    assert math.isnan(row.mean) and math.isnan(row.largest) and row.not_finite == 1


def test_16_bit_offsets_are_measured_in_float32(model):
    function = model.inner["function"]
    function.offset = function.offset.half().fill_(300)  # whose square no float16 holds
    with torch.autocast(model.pack.weight.device.type, torch.float16):
        row = dcn.offset_stats(model, batch(model))["inner.function"]
    assert row.mean == pytest.approx(300 * 2**0.5) and row.not_finite == 0


def test_the_table_is_read_by_people(model):
    model.inner["function"].offset.fill_(12)
    lines = str(dcn.offset_stats(model, batch(model))).splitlines()
    assert lines[0].split() == ["layer", "mean", "|offset|", "largest", "outside", "before", "mask"]
    assert lines[1].split()[:7] == ["pack", "0", "px", "0", "px", "16.0%", "16.0%"]
    assert lines[3].startswith("inner.function")
    assert lines[3].endswith(
        "17 px     17 px   100.0%    0.0%      -  reaches beyond its 8 x 8 map"
    )
    nothing = dcn.offset_stats(nn.Conv2d(4, 4, 1), torch.rand(1, 4, 8, 8))
    assert len(nothing) == 0 and str(nothing) == "no deformable convolution of dcn ran"
    with pytest.raises(KeyError, match="no row 'other' among pack, bare, inner"):
        dcn.offset_stats(model, batch(model))["other"]


def test_the_model_stays_as_it_was(model):
    state = copy.deepcopy(model.state_dict())
    dcn.offset_stats(model, batch(model))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training and model.norm.training and not model.frozen.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        dcn.offset_stats(model, torch.rand(2, 5, 8, 8, device=model.pack.weight.device))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_images_and_a_model_that_is_one_layer():
    stats = dcn.offset_stats(Model(), torch.rand(0, 4, 8, 8))
    assert stats["pack"].outside == 0 and stats["pack"].not_finite == 0
    (row,) = dcn.offset_stats(dcn.DeformConv2dPack(4, 4, 3), torch.rand(1, 4, 8, 8))
    assert row.layer == "DeformConv2dPack"


def test_the_largest_is_that_of_every_call():
    for lengths in ((1.0, 3.0), (3.0, 1.0)):
        x, model = torch.rand(2, 4, 8, 8), Trial(*lengths)
        row = dcn.offset_stats(model, x)["Trial"]
        assert row.calls == 2 and row.largest == pytest.approx(3) and row.mean == pytest.approx(2)
        with dcn.warn_offsets(model, limit=2), pytest.warns(UserWarning, match="Trial 3 px"):
            model(x)


def test_what_runs_after_a_part_that_failed_keeps_its_name():
    stats = dcn.offset_stats(nn.Sequential(Trial(1.0), Trial(2.0)), torch.rand(2, 4, 8, 8))
    assert [(row.layer, round(row.mean, 4)) for row in stats] == [("0", 1), ("1", 2)]


def test_a_compiled_model_is_seen_by_the_same_names(model):
    compiled = torch.compile(model, backend="aot_eager")
    compiled(batch(model))
    assert [row.layer for row in dcn.offset_stats(compiled, batch(model))] == [
        "pack",
        "bare",
        "inner.function",
    ]


def warned(model, passes: int) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(passes):
            model(torch.rand(2, 4, 8, 8))
    return [str(one.message) for one in caught]


def test_offsets_beyond_the_limit_are_warned_of():
    model = Model()
    with dcn.warn_offsets(model, limit=5, every=2):
        assert warned(model, 2) == []
        model.inner["function"].offset[0, :, 0, 0] = torch.tensor([3.0, 4.0])  # length 5
        assert warned(model, 1) == []
        model.inner["function"].offset[0, 1, 0, 0] = 4.5
        assert warned(model, 1) == []  # the fourth pass is not watched
        nn.init.constant_(model.offset.bias, math.nan)
        (message,) = warned(model, 2)
        assert (
            "beyond the limit of 5 px in forward pass 5: bare nan px, inner.function 5.41 px"
            in (message)
        )
    assert warned(model, 3) == []


def test_a_watched_model_trains_and_copies_as_before():
    model, plain = Model(), Model()
    plain.load_state_dict(model.state_dict())
    handle = dcn.warn_offsets(model, limit=1e3, every=1)
    x = torch.rand(2, 4, 8, 8)
    for one in (model, plain):
        one(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    model.inner["function"].offset.fill_(2e3)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    handle.remove()
    assert warned(model, 1) == []
    for one in copies:
        assert "inner.function 2.83e+03 px" in warned(one, 1)[0]


def test_a_pass_that_fails_ends_the_watch_of_it():
    model = Model()
    with dcn.warn_offsets(model, limit=1, every=1):
        with pytest.raises(RuntimeError):
            model(torch.rand(2, 5, 8, 8))
        model.inner["function"].offset.fill_(2)
        assert len(warned(model, 1)) == 1
        assert not model.pack._forward_hooks


def test_a_compiled_model_is_watched_and_stays_compiled():
    graphs = []

    def backend(graph, inputs):
        return lambda *args: (graphs.append(graph), graph(*args))[1]

    model = Model()
    model.inner["function"].offset.fill_(2)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with dcn.warn_offsets(compiled, limit=1, every=3):
        messages = warned(compiled, 6)
    assert len(messages) == 2 and "pass 4: inner.function 2.83 px" in messages[1]
    assert len(graphs) == 4 and len(set(graphs)) == 1  # all passes but the first and the fourth


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": math.nan}, {"limit": 1, "every": 0}])
def test_limits_that_mean_nothing_are_refused(arguments):
    with pytest.raises(ValueError, match="expected a limit above 0 px and every >= 1, but got"):
        dcn.warn_offsets(Model(), **arguments)
