"""The picture of where a model samples: its numbers, its file, and the command."""

import io

import pytest
import torch
from torch import nn

import dcn
from dcn import cli, plot_command
from dcn.observe import run_observed
from dcn.plot import offset_histograms, sampling_points


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.first = dcn.ModulatedDeformConv2dPack(4, 4, 3, padding=1)
        self.second = dcn.DeformConv2dPack(4, 4, 3, padding=1, offset_groups=2)
        self.third = dcn.DeformConv2dPack(4, 4, 3, padding=1, offset_groups=2)

    def forward(self, x):
        return self.third(self.second(self.first(self.stem(x))))


def model() -> Model:
    made = Model()
    nn.init.constant_(made.third.conv_offset.bias, 0.75)
    nn.init.constant_(made.third.conv_offset.bias[:18], 0.25)
    return made


IMAGE = torch.rand(3, 40, 56)


def test_taps_of_a_model_are_in_the_pixels_of_its_image():
    picture = sampling_points(model(), IMAGE, [(20, 28), (10, 12)], layers=1, group=1)
    assert picture.layers == ["third"]
    assert [taps.centre.tolist() for taps in picture.taps] == [[20, 28], [10, 12]]
    for taps in picture.taps:
        torch.testing.assert_close(taps.sampled - taps.regular, torch.full((9, 2), 1.5))
    assert [row.layer for row in picture.stats] == ["first", "second", "third"]
    assert picture.image is not IMAGE and torch.equal(picture.image, IMAGE)


def test_layers_are_the_last_ones_or_those_named():
    def chosen(layers):
        picture = sampling_points(model(), IMAGE[None], [(20, 28)], layers=layers)
        return picture.layers, len(picture.taps[0].sampled)

    assert chosen(2) == (["second", "third"], 81)
    assert chosen(9) == (["first", "second", "third"], 729)
    assert chosen(["third", "first"]) == (["first", "third"], 81)


def test_inputs_are_given_to_a_model_that_takes_others():
    layer = dcn.DeformConv2d(3, 4, 3, padding=1)
    offset = torch.zeros(1, 18, 40, 56)
    offset[:, 9] = 2  # x of tap 4
    picture = sampling_points(layer, IMAGE, [(7, 8)], inputs=(IMAGE[None], offset))
    assert picture.layers == ["DeformConv2d"]
    assert picture.taps[0].sampled[4].tolist() == [7, 10]
    double = dcn.DeformConv2dPack(3, 4, 3, padding=1).double()
    assert len(sampling_points(double, IMAGE, [(7, 8)]).taps[0].sampled) == 9


def test_histograms_share_their_edges_and_count_every_finite_offset():
    calls = []
    run_observed(model(), (IMAGE[None],), {}, calls.append)
    calls[0].offset[0, 0, 0, 0] = float("nan")
    histograms = offset_histograms(calls, bins=4)
    longest = 0.75 * 2**0.5
    torch.testing.assert_close(histograms.edges, torch.linspace(0, longest, 5))
    assert histograms.shares["first"].tolist() == [1, 0, 0, 0]
    assert histograms.shares["third"].tolist() == pytest.approx([0, 0.5, 0, 0.5])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"points": [(40, 3)]}, r"in an image of 40 x 56 px, but got \(40, 3\)"),
        ({"layers": ["fourth"]}, "no deformable layer 'fourth' ran; first, second, third did"),
        ({"layers": 0}, "expected one layer or more, but got 0"),
        ({"group": 1}, r"first has 1 offset group\(s\), but got group 1"),
        ({"model": nn.Conv2d(3, 3, 1)}, "no deformable convolution of dcn ran in this model"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampling_points(**({"model": model(), "image": IMAGE, "points": [(1, 1)]} | arguments))


@pytest.mark.parametrize("image", [IMAGE, IMAGE[:1], 3 * IMAGE - 1], ids=["rgb", "grey", "scaled"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_picture_is_a_png(image, layers, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    made = model()
    made.stem = nn.Conv2d(len(image), 4, 3, stride=2, padding=1)
    picture = sampling_points(made, image, [(20, 28)], layers=layers)
    picture.save(tmp_path / "taps.png")
    written = (tmp_path / "taps.png").read_bytes()
    assert written == picture._repr_png_() and written[:8] == b"\x89PNG\r\n\x1a\n"
    without = sampling_points(made, image, [], layers=layers)._repr_png_()
    pixels, plain = (matplotlib.image.imread(io.BytesIO(one)) for one in (written, without))
    orange = torch.tensor(matplotlib.colors.to_rgb("tab:orange"))

    def colored(picture) -> int:
        return (torch.tensor(picture[..., :3]) - orange).abs().amax(2).lt(0.05).sum().item()

    assert colored(pixels) > colored(plain) + 100


@pytest.fixture
def photo(tmp_path, monkeypatch) -> str:
    """In a folder of its own, with a module that makes a model."""
    pytest.importorskip("matplotlib")
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Image.new("RGB", (112, 80), (90, 120, 200)).save("photo.jpg")
    (tmp_path / "plotted_models.py").write_text(
        "import dcn\n\ndef small():\n    return dcn.ModulatedDeformConv2dPack(3, 4, 3, padding=1)\n"
    )
    return "photo.jpg"


def test_the_command_draws_a_model_of_yours(photo, tmp_path, capsys):
    made = dcn.ModulatedDeformConv2dPack(3, 4, 3, padding=1)
    nn.init.constant_(made.conv_offset.bias, 3)
    torch.save(made.state_dict(), "trained.pt")
    arguments = ["plot", photo, "--model", "plotted_models:small", "--out", "out.png"]
    assert cli.main(arguments) == 0
    assert "every offset is 0" in capsys.readouterr().out
    arguments += ["--checkpoint", "trained.pt", "--point", "3,4", "--point", "9,20", "--size", "56"]
    assert cli.main([*arguments, "--normalize"]) == 0
    said = capsys.readouterr().out
    assert "4.24 px   4.24 px" in said and "Picture: out.png" in said
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert cli.main([*arguments, "--point", "39,1"]) == 0
    assert cli.main([*arguments, "--point", "41,1"]) == 2
    assert "an image of 40 x 56 px, but got (41.0, 1.0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "model, said",
    [
        ("plotted_models", "expected --model MODULE:FUNCTION, but got plotted_models"),
        ("plotted_models:large", "has no attribute 'large'"),
        ("no_such_module:small", "No module named 'no_such_module'"),
    ],
)
def test_the_command_says_what_it_lacks(photo, model, said, capsys):
    assert cli.main(["plot", photo, "--model", model]) == 2
    assert said in capsys.readouterr().out
    assert cli.main(["plot", "no.jpg", "--model", "plotted_models:small"]) == 2
    assert "No such file or directory: " in capsys.readouterr().out


def test_the_command_says_that_it_needs_matplotlib(monkeypatch, capsys):
    monkeypatch.setattr(plot_command, "find_spec", lambda name: None)
    assert cli.main(["plot", "photo.jpg", "--model", "a:b"]) == 2
    assert capsys.readouterr().out == "dcn plot needs matplotlib: pip install matplotlib\n"
