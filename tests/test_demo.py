"""The demo: its data, its figures on cases worked out by hand, and a run of two steps."""

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from dcn import demo, demo_data, demo_model
from dcn.demo_model import Detections


@pytest.fixture(scope="module")
def parts() -> tuple[demo_data.Scene, demo_data.Scene]:
    return demo_data.scenes()


def test_every_coin_of_the_photograph_is_whole_in_one_part(parts):
    from skimage import data

    photo = torch.from_numpy(data.coins()).float() / 255
    learn, held_out = parts
    # Stacked, the parts are the photograph: no pixel is missing, none is in both.
    assert torch.equal(torch.cat([learn.image, held_out.image], 1)[0], photo)
    assert len(learn.masks) == len(held_out.masks) == 12
    assert not learn.masks[:, -1].any()
    assert not held_out.masks[:, 0].any()
    for part in parts:
        assert part.masks.sum(0).max() == 1  # no pixel belongs to two coins
        assert part.masks.sum((1, 2)).min() > 1000
        assert part.image[0][part.masks.any(0)].mean() > part.image.mean() + 0.1


def test_crops_follow_the_seed(parts):
    first, again, other = (demo_data.draw_batches(parts[0], 3, 2, 64, seed) for seed in (5, 5, 6))
    assert [len(batch) for batch in first] == [2, 2, 2]
    for batch, same in zip(first, again, strict=True):
        for crop, twin in zip(batch, same, strict=True):
            assert crop.image.shape == (1, 64, 64)
            assert crop.masks.flatten(1).any(1).all()
            assert torch.equal(crop.image, twin.image)
            assert torch.equal(crop.masks, twin.masks)
    assert not torch.equal(first[0][0].image, other[0][0].image)


def _squares(*columns: int) -> torch.Tensor:
    """Masks of 10 x 10 squares on a 10 x 100 image that start at these columns."""
    masks = torch.zeros(len(columns), 10, 100, dtype=torch.bool)
    for mask, column in zip(masks, columns, strict=True):
        mask[:, column : column + 10] = True
    return masks


def _found(masks: torch.Tensor, *scores: float) -> Detections:
    return Detections(masks, torch.tensor(scores), torch.zeros(len(scores), 4))


def test_figures_of_a_perfect_answer():
    coins = _squares(0, 20, 40)
    figures = demo_model.judge(_found(coins, 0.9, 0.8, 0.7), coins)
    assert (figures.ap50, figures.mean_iou) == (1.0, 1.0)
    assert (figures.found, figures.coins, figures.false_alarms) == (3, 3, 0)


def test_figures_count_what_is_missed_found_twice_and_wrong():
    coins = _squares(0, 20, 40, 60)
    # Coin 0 shifted by 2 columns (IoU 8/12), once more in full, nothing, and coin 20 unsure.
    found = _found(_squares(2, 0, 80, 20), 0.9, 0.8, 0.7, 0.3)
    figures = demo_model.judge(found, coins)
    assert figures.mean_iou == pytest.approx((8 / 12) / 4)  # the best score takes the coin
    assert (figures.found, figures.false_alarms) == (1, 2)
    # Hits at ranks 1 and 4 of 4: precision 1 and 1/2, over four coins.
    assert figures.ap50 == pytest.approx((1 + 1 / 2) / 4)


def test_figures_of_an_empty_or_poor_answer():
    coins = _squares(0, 20)
    nothing = demo_model.judge(_found(coins[:0]), coins)
    assert (nothing.ap50, nothing.mean_iou, nothing.false_alarms) == (0.0, 0.0, 0)
    poor = demo_model.judge(_found(_squares(4, 26), 0.9, 0.8), coins)  # IoU 6/14 and 4/16
    assert (poor.ap50, poor.mean_iou, poor.found, poor.false_alarms) == (0.0, 0.0, 0, 2)


def test_deformable_model_starts_as_the_plain_one(parts):
    plain, deformable = (
        demo_model.detect(demo_model.build_model(3, convert), parts[1], torch.device("cpu"))
        for convert in (False, True)
    )
    assert len(plain.scores) > 0
    torch.testing.assert_close(plain.scores, deformable.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain.boxes, deformable.boxes, atol=1e-2, rtol=1e-4)


def test_untrained_taps_sample_the_regular_grid(parts):
    model = demo_model.build_model(0, True)
    found = demo_model.sampled_taps(model, parts[1], torch.device("cpu"))
    assert len(found) == 3
    for taps in found:
        assert torch.equal(taps.sampled, taps.regular)
        assert torch.equal(taps.mask, torch.ones(9))
        assert taps.regular[8].sub(taps.regular[0]).tolist() == [64, 64]


def test_taps_follow_the_predicted_offsets(parts):
    model = demo_model.build_model(0, True)
    layer = model.backbone.body.layer4[-1].conv2
    torch.nn.init.constant_(layer.conv_offset.bias[0:1], 0.5)  # y of the first tap
    torch.nn.init.constant_(layer.conv_offset.bias[17:18], -0.25)  # x of the last
    for taps in demo_model.sampled_taps(model, parts[1], torch.device("cpu")):
        moved = taps.sampled - taps.regular
        assert moved[0].tolist() == [16, 0]
        assert moved[8].tolist() == [0, -8]
        assert not moved[1:8].any()


def test_two_steps_write_a_picture_and_miss_the_bar_aloud(tmp_path, capsys):
    from matplotlib import image

    out = tmp_path / "coins.png"
    code = demo.main(["--steps", "2", "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert code == 1
    assert "MISSED" in said
    assert [line.split()[0] for line in said.splitlines() if line.count("/12")] == [
        "untrained",
        "plain",
        "deformable",
    ]
    assert image.imread(out).std() > 0.1


def test_bar_needs_both_models_and_a_distance_from_the_untrained():
    def rows(untrained: float, plain: float, deformable: float) -> dict[str, demo_model.Figures]:
        names = ("untrained", "plain", "deformable")
        values = (untrained, plain, deformable)
        return {
            name: demo_model.Figures(1.0, value, 12, 12, 0)
            for name, value in zip(names, values, strict=True)
        }

    assert demo._reached(rows(0.1, 0.8, 0.9))
    assert not demo._reached(rows(0.1, 0.79, 0.9))
    assert not demo._reached(rows(0.1, 0.9, 0.79))
    assert not demo._reached(rows(0.6, 0.85, 0.85))


def test_missing_requirements_and_devices_are_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(demo, "_REQUIRES", ("torch", "no_such_package"))
    assert demo.main([]) == 2
    assert "needs no_such_package: pip install" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert demo.main(["--device", "cuda"]) == 2
    assert "needs a GPU" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        demo.main(["--steps", "0"])
    with pytest.raises(SystemExit):
        demo.main(["--out", "no/such/folder/coins.png"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_training_runs_in_the_type_asked_for(parts, dtype):
    cpu, seen = torch.device("cpu"), []
    model = demo_model.build_model(0, True)
    model.backbone.body.layer4[-1].conv2.register_forward_hook(
        lambda _, __, y: seen.append(y.dtype)
    )
    (loss,) = demo_model.train(model, demo_data.draw_batches(parts[0], 1, 1, 64, 0), cpu, 0, dtype)
    assert seen == [dtype] and 0 < loss < 100
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
