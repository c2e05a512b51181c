"""Trains a deformable Mask R-CNN to outline the coins of a photograph.

    python examples/train_coins.py                      # minutes on a CPU, seconds on a GPU
    python examples/train_coins.py --dtype bf16 --out coins.pt

The same training as `dcn demo`, one model and no plain one beside it. What is worth taking over:
a backbone is converted, the offset convolutions learn at a tenth of the rate, offsets are watched
while training, and looked at afterwards.
"""

import argparse

import torch

import dcn
from dcn import demo_data, demo_model

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=140, help="training steps")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="16 bits under autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="of weights, crops and samplers")
    parser.add_argument("--out", default="coins.pt", help="the state dict to write")
    args = parser.parse_args(argv)
    device = torch.device(args.device)

    # Two halves of one photograph: coins to learn on, and coins never seen in training.
    learn, held_out = demo_data.scenes()
    batches = demo_data.draw_batches(learn.to(device), args.steps, 2, 128, args.seed)

    # A Mask R-CNN on a ResNet-18 whose layers 2 to 4 went through dcn.convert_backbone.
    model = demo_model.build_model(args.seed, deformable=True).to(device)

    # AdamW on dcn.param_groups(model, lr=1e-3), clipped gradients, one cycle of the rate.
    with dcn.warn_offsets(model, limit=32, every=20):
        for step, loss in enumerate(
            demo_model.train(model, batches, device, args.seed, dtype=DTYPES[args.dtype]), 1
        ):
            if step % 10 == 0 or step == args.steps:
                print(f"step {step:4}  loss {loss:.3f}", flush=True)

    found = demo_model.detect(model, held_out, device)
    figures = demo_model.judge(found, held_out.masks)
    print(
        f"held out: {figures.found} of {figures.coins} coins found, "
        f"mean IoU {figures.mean_iou:.2f}, {figures.false_alarms} false alarms"
    )
    print(dcn.offset_stats(model, [held_out.image.to(device).expand(3, -1, -1)]))
    torch.save(model.state_dict(), args.out)
    print(f"weights: {args.out}")


if __name__ == "__main__":
    main()
