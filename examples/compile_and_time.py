"""Compiles a deformable ResNet, compares it with eager mode, and times forward and training step.

python examples/compile_and_time.py
python examples/compile_and_time.py --model resnet50 --batch 16 --size 512 --dtype bf16
"""

import argparse
import copy

import torch
import torchvision

import dcn
from dcn import bench

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def training_step(model, x, dtype):
    """Forward, backward and update; returns a callable of no arguments."""
    optimizer = torch.optim.SGD(dcn.param_groups(model, lr=1e-3))
    scaler = torch.amp.GradScaler(x.device.type, enabled=dtype == torch.float16)

    def step():
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            loss = model(x).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def inference(model, x, dtype):
    @torch.inference_mode()
    def run():
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            return model(x)

    return run


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="a ResNet of torchvision")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="px of the square images")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="16 bits under autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    args = parser.parse_args(argv)
    dtype = DTYPES[args.dtype]

    torch.manual_seed(0)
    model = dcn.convert_backbone(getattr(torchvision.models, args.model)(weights=None))
    model = model.to(args.device, memory_format=torch.channels_last)
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    x = x.to(memory_format=torch.channels_last)

    # Copies, since a training step changes the weights. The whole model is one graph.
    models = {"eager": model.eval(), "compiled": copy.deepcopy(model)}
    models["compiled"] = torch.compile(models["compiled"], backend=args.backend, fullgraph=True)
    eager, compiled = (inference(one, x, dtype)() for one in models.values())
    error = ((compiled - eager).norm() / eager.norm()).item()
    print(f"{args.model} in {args.dtype} on {args.device}, {args.batch} x {args.size} px")
    print(f"compiled and eager differ by {error:.1e} of the output's norm")

    for name, make in (("inference", inference), ("training step", training_step)):
        runs = {kind: make(one, x, dtype) for kind, one in models.items()}
        times = bench.best_of_interleaved(runs, args.device, repeats=3)
        print(
            f"{name:14} eager {times['eager']:8.2f} ms   compiled {times['compiled']:8.2f} ms   "
            f"{times['eager'] / times['compiled']:.2f} times faster"
        )


if __name__ == "__main__":
    main()
