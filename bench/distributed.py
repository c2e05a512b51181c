"""Times data-parallel training of a deformable ResNet-50: one process alone, then two or more.

    python bench/distributed.py --out rows.json              # every GPU of this machine, over NCCL
    python bench/distributed.py --device cpu --processes 2 --dtype f32 --batch 2 --size 32 --steps 1

All 16 3x3 convolutions of the bottlenecks are deformable; the plain network runs beside it. Each
process has a GPU and `--batch` images of its own, so a scaling of 1 is twice the images/s with two
processes: `DDP`, and `FSDP2` (`fully_shard` of each block and of the whole). Activations are
channels_last; so are the weights, except under FSDP2, which shards contiguous parameters alone.

Each wrapping is checked: in float32 and PyTorch's deterministic mode the gradients of one step are
those of one process that passes everybody's images through the network, one share at a time, and
after the timed steps no process's weights differ from another's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torchvision
from commit import measured_commit
from resnet import build, images_and_targets, training_step
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import Bottleneck

from dcn import bench

NETWORK = "resnet50"
WRAPPINGS = ("none", "DDP", "FSDP2")
HEAD = (
    "network", "wrapping", "processes", "step ms", "images/s", "scaling", "same weights",
    "gradient differs by",
)  # fmt: skip
GRADIENT_BAR = 1e-3  # of a step's whole gradient, in float32, by which processes may differ


def network(kind: str, args) -> nn.Module:
    """`kind`: plain or dcn. The same weights in every process, in NCHW."""
    return build(NETWORK, args.size, kind, sigma=1.0).train().to(args.device)


def wrap(model: nn.Module, wrapping: str, args) -> nn.Module:
    if wrapping == "FSDP2":
        mesh = init_device_mesh(args.device, (dist.get_world_size(),))
        blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
        for module in (*blocks, model):
            fully_shard(module, mesh=mesh)
    return DistributedDataParallel(model) if wrapping == "DDP" else model


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients(model: nn.Module, shares: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Of the mean of the losses of `shares`, each passed through the model by itself."""
    for images, labels in shares:
        (nn.functional.cross_entropy(model(images), labels) / len(shares)).backward()
    return [whole(parameter.grad) for parameter in model.parameters()]


def gradient_difference(wrapping: str, data: list, rank: int, args) -> float:
    """Norm of the difference between all processes' gradient and one's, by that of the latter."""
    bench.set_precision("f32")
    torch.use_deterministic_algorithms(True, warn_only=True)
    alone = gradients(network("dcn", args), data)
    ours = gradients(wrap(network("dcn", args), wrapping, args), data[rank : rank + 1])
    torch.use_deterministic_algorithms(False)
    differences = [(a - b).norm() for a, b in zip(ours, alone, strict=True)]
    return (torch.stack(differences).norm() / torch.stack([a.norm() for a in alone]).norm()).item()


def same_everywhere(model: nn.Module) -> bool:
    """Whether every process has the first one's parameters, bit by bit."""
    same = True
    for parameter in model.parameters():
        mine = whole(parameter.detach())
        first = mine.clone(memory_format=torch.contiguous_format)
        dist.broadcast(first, 0)
        same &= torch.equal(mine, first)
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, same)
    return all(found)


def milliseconds(step: Callable[[], Tensor], args, hosts) -> float:
    """Of a step of the slowest process: the best of three rounds. `hosts`: who takes part."""

    def synchronize() -> None:
        if args.device == "cuda":
            torch.cuda.synchronize()

    def timed() -> float:
        if hosts is not None:
            dist.barrier(hosts)
        start = time.perf_counter()
        for _ in range(args.steps):
            loss = step()
        synchronize()
        took = torch.tensor((time.perf_counter() - start) * 1e3 / args.steps)
        if not loss.isfinite():
            raise RuntimeError(f"what was timed is not training: loss {loss.item()}")
        if hosts is not None:
            dist.all_reduce(took, dist.ReduceOp.MAX, group=hosts)
        return took.item()

    for _ in range(min(3, args.steps)):  # the first of them choose algorithms
        step()
    synchronize()
    return min(timed() for _ in range(3))


def measure(rank: int, args) -> list[dict]:
    hosts = dist.new_group(backend="gloo")  # waits without a kernel on the GPU
    data = [
        images_and_targets(NETWORK, args.batch, args.size, args.device, seed=1 + other)
        for other in range(args.processes)
    ]
    differences = {"none": 0.0}
    few = [(images[: args.check], labels[: args.check]) for images, labels in data]
    for wrapping in WRAPPINGS[1:]:
        differences[wrapping] = gradient_difference(wrapping, few, rank, args)
    torch.backends.cudnn.benchmark = True
    bench.set_precision(args.dtype)
    rows = []
    for wrapping in WRAPPINGS:
        for kind in ("plain", "dcn"):
            alone = wrapping == "none"
            same, took = None, 0.0
            if not alone or rank == 0:
                model = network(kind, args)
                if wrapping != "FSDP2":
                    model = model.to(memory_format=torch.channels_last)
                model = wrap(model, wrapping, args)
                step = training_step(NETWORK, model, data[rank], args.dtype)
                took = milliseconds(step, args, None if alone else hosts)
                same = None if alone else same_everywhere(model)
                del model, step
            dist.barrier(hosts)
            if rank == 0:
                rows.append(row_of(kind, wrapping, took, same, differences[wrapping], rows, args))
                print(line(rows[-1]), flush=True)
    return rows


def row_of(kind, wrapping, took, same, difference, rows, args) -> dict:
    processes = 1 if wrapping == "none" else args.processes
    alone = next((row["step_ms"] for row in rows if row["kind"] == kind), took)
    return {
        "network": NETWORK,
        "kind": kind,
        "wrapping": wrapping,
        "processes": processes,
        "dtype": args.dtype,
        "batch": args.batch,  # of each process
        "size": args.size,
        "step_ms": took,
        "images_per_s": processes * args.batch / took * 1e3,
        "scaling": alone / took,
        "same_weights": same,
        "gradient_difference": difference if kind == "dcn" and processes > 1 else None,
    }


def line(row: dict) -> str:
    difference = row["gradient_difference"]
    cells = (
        row["kind"], row["wrapping"], str(row["processes"]), f"{row['step_ms']:.1f}",
        f"{row['images_per_s']:.0f}", f"{row['scaling']:.3f}",
        {None: "-", True: "yes", False: "NO"}[row["same_weights"]],
        "-" if difference is None else f"{difference:.1e}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def process(rank: int, store: str, args) -> None:
    warnings.filterwarnings("ignore", message=".*deterministic|Grad strides do not match")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "gloo" if args.device == "cpu" else "nccl"
    if args.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(rank)
    options = {"rank": rank, "world_size": args.processes}
    dist.init_process_group(backend, init_method=f"file://{store}", **options)
    if rank == 0:
        print(f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", sep="\n", flush=True)
    rows = measure(rank, args)
    dist.destroy_process_group()
    if rank == 0:
        finish(rows, args)


def finish(rows: list[dict], args) -> None:
    stamp = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "commit": args.commit,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    if args.device == "cuda":
        stamp["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    if args.out:
        args.out.write_text(json.dumps([row | stamp for row in rows], indent=1) + "\n")
    wrong = [row for row in rows if row["same_weights"] is False]
    wrong += [row for row in rows if not (row["gradient_difference"] or 0) <= GRADIENT_BAR]  # NaN
    if wrong:
        raise SystemExit("wrong:\n" + "\n".join(map(line, wrong)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument("--processes", type=int, help="on GPUs: as many as there are")
    parser.add_argument("--dtype", choices=bench.DTYPES, default="bf16")
    parser.add_argument("--batch", type=int, default=128, help="images of a process")
    parser.add_argument("--size", type=int, default=224, help="of an image")
    parser.add_argument("--steps", type=int, default=15, help="of a round; the best of three")
    parser.add_argument("--check", type=int, default=8, help="images whose gradients are compared")
    parser.add_argument("--commit", help="what is measured, where git is not there to say so")
    parser.add_argument("--out", type=Path, help="where to write the rows, as JSON")
    args = parser.parse_args()
    args.processes = args.processes or max(2, torch.cuda.device_count())
    args.commit = measured_commit(Path(__file__).parent, args.commit)
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        torch.multiprocessing.spawn(process, (store, args), nprocs=args.processes)


if __name__ == "__main__":
    main()
