"""`dcn demo`: a Mask R-CNN with a deformable backbone learns to outline coins in a photograph."""

import argparse
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .demo_model import Figures

STEPS, BATCH, CROP = 140, 2, 128
BAR = 0.8  # of the held-out mean IoU
_REQUIRES = ("torchvision", "skimage", "scipy", "matplotlib", "tqdm")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; 0 if both models reach the bar, 1 if not, 2 if it cannot run."""
    args = _parse(argv)
    missing = [name for name in _REQUIRES if find_spec(name) is None]
    if missing:
        print(f"dcn demo needs {', '.join(missing)}: pip install '.[demo]' in dcn's source folder")
        return 2
    device = _choose_device(args.device)
    if device is None:
        print("dcn demo: --device cuda needs a GPU and a dcn built with CUDA; see dcn check")
        return 2
    return _run(args, device)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"expected a positive number, but got {value}")
        return value

    def picture(text: str) -> str:
        # Now, and not after minutes of training.
        if not text.endswith(".png") or not Path(text).parent.is_dir():
            raise argparse.ArgumentTypeError(
                f"expected a .png in a folder that exists, but got {text}"
            )
        return text

    parser = argparse.ArgumentParser(prog="dcn demo", description=__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=positive, default=STEPS, help="training steps of a model")
    parser.add_argument("--out", type=picture, default="coins.png", help="picture to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _choose_device(name: str) -> torch.device | None:
    has_kernels = torch._C._dispatch_has_kernel_for_dispatch_key("dcn::deform_conv2d", "CUDA")
    usable = has_kernels and torch.cuda.is_available()
    if name == "cuda" and not usable:
        return None
    return torch.device("cuda" if usable and name != "cpu" else "cpu")


def _run(args: argparse.Namespace, device: torch.device) -> int:
    start = time.perf_counter()
    # Here and not above: these need the optional requirements.
    from tqdm import tqdm

    from . import demo_data, demo_model, demo_picture

    learn, held_out = demo_data.scenes()
    batches = demo_data.draw_batches(learn.to(device), args.steps, BATCH, CROP, args.seed)
    stages = ", ".join(demo_model.DEFORMABLE_STAGES)
    print(_describe(args, device, len(learn.masks), len(held_out.masks), stages), flush=True)

    rows: dict[str, Figures] = {}
    trained = {}
    seconds = {}
    for name, deformable in (("plain", False), ("deformable", True)):
        model = demo_model.build_model(args.seed, deformable).to(device)
        if not rows:  # the deformable model computes the same before it is trained
            found = demo_model.detect(model, held_out, device)
            rows["untrained"] = demo_model.judge(found, held_out.masks)
        begin = time.perf_counter()
        with tqdm(total=args.steps, desc=f"{name:10}", unit="step") as bar:
            for loss in demo_model.train(model, batches, device, args.seed):
                bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
                bar.update()
        seconds[name] = time.perf_counter() - begin
        found = demo_model.detect(model, held_out, device)
        rows[name] = demo_model.judge(found, held_out.masks)
        trained[name] = (model, found)

    taps = demo_model.sampled_taps(trained["deformable"][0], held_out, device)
    results = {name: (found, rows[name]) for name, (_, found) in trained.items()}
    demo_picture.draw(args.out, held_out, results, taps)
    print("\n" + _table(rows, seconds))
    print(f"Picture: {args.out}. Everything took {time.perf_counter() - start:.0f} s.")
    reached = _reached(rows)
    print(f"Bar (held-out mean IoU >= {BAR} for both): {'reached' if reached else 'MISSED'}.")
    return 0 if reached else 1


def _describe(
    args: argparse.Namespace, device: torch.device, learn: int, held_out: int, stages: str
) -> str:
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"CPU, {torch.get_num_threads()} thread(s)"
    return (
        f"Photograph: skimage.data.coins(). Its upper half, {learn} coins, is to learn on; its "
        f"lower half, {held_out} coins,\nis held out: never trained on.\n"
        f"Model: Mask R-CNN on a ResNet-18 with a feature pyramid, from random weights. "
        f"Deformable: the 3x3\nconvolutions of {stages}. Both train for {args.steps} step(s) of "
        f"{BATCH} crops of {CROP} px, the same\nfor both. Seed {args.seed}. {where}."
    )


def _table(rows: "dict[str, Figures]", seconds: dict[str, float]) -> str:
    lines = [
        f"{'held out':12}{'mask AP@0.5':>12}{'mean IoU':>10}{'coins found':>13}{'false alarms':>14}"
        f"{'training':>10}"
    ]
    for name, row in rows.items():
        took = f"{seconds[name]:.0f} s" if name in seconds else "none"
        lines.append(
            f"{name:12}{row.ap50:12.2f}{row.mean_iou:10.2f}{f'{row.found}/{row.coins}':>13}"
            f"{row.false_alarms:14}{took:>10}"
        )
    lines.append(
        "A coin is found if a detection with a score of 0.5 or more overlaps it with a mask IoU of "
        "0.5 or more.\nThe mean IoU is over all held-out coins, 0 for one not found; AP is over "
        "every detection scored above 0.05.\nThe outlines compared with come from a watershed, "
        "not from a hand. One photograph, one seed, and a recipe\nchosen with the held-out half "
        "in sight: this shows that it learns, and does not rank the two backbones."
    )
    return "\n".join(lines)


def _reached(rows: "dict[str, Figures]") -> bool:
    untrained = rows["untrained"].mean_iou
    trained = [rows[name].mean_iou for name in ("plain", "deformable")]
    return min(trained) >= max(BAR, untrained + 0.3)


if __name__ == "__main__":
    raise SystemExit(main())
