"""Times training steps of deformable networks against the same networks without, in one run.

    python bench/resnet.py                                   # on a GPU; channels_last
    python bench/resnet.py --models resnet50 --dtypes bf16 --torchvision --out rows.json
    python bench/resnet.py --models resnet18-fpn resnet50-fpn --dtypes bf16 --compile
    python bench/resnet.py --device cpu --dtypes f32 --batch 2 --size 64

A step is forward, backward and SGD. `resnet50`: every 3x3 convolution of the bottlenecks is a
`ModulatedDeformConv2dPack`; batch 128 of 224 x 224. `maskrcnn`: those of C3 to C5; two images of
800 x 1333. `resnet50-fpn`, `resnet18-fpn`: a detector's backbone alone, with its feature pyramid.
16 bits are autocast. Offset convolutions start with weights that give offsets of about
N(0, sigma^2) px.

With --torchvision its operator stands in the same packs as well. With --compile the deformable
network is timed once more under `torch.compile`: loss and gradients as one graph each, and SGD's
update. The detector as a whole cannot be one graph.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from commit import measured_commit
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import dcn
from dcn import bench

# Deformable stages, batch, and size of the images, of a network by name.
NETWORKS = {
    "resnet50": (("layer1", "layer2", "layer3", "layer4"), 128, 224),
    "maskrcnn": (("layer2", "layer3", "layer4"), 2, 800),
    "resnet50-fpn": (("layer2", "layer3", "layer4"), 2, 800),
    "resnet18-fpn": (("layer2", "layer3", "layer4"), 2, 800),
}
LANDSCAPE = 1333 / 800  # width by height of the detector's images
OBJECTS = 8  # in each of them


class TorchvisionPack(dcn.ModulatedDeformConv2dPack):
    """The same layer by torchvision's operator."""

    def forward(self, input: Tensor) -> Tensor:
        offset, mask = self._predict(input)
        return torchvision.ops.deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )


def build(network: str, size: int, kind: str, sigma: float) -> nn.Module:
    """`kind`: plain, dcn or torchvision. Equal weights but for the offset convolutions'."""
    torch.manual_seed(0)
    if network == "resnet50":
        model = resnet50(weights=None)
    elif network.endswith("-fpn"):
        options = {"norm_layer": nn.BatchNorm2d, "trainable_layers": 5}
        name = network.removesuffix("-fpn")
        model = resnet_fpn_backbone(backbone_name=name, weights=None, **options)
    else:
        model = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=size, max_size=int(size * LANDSCAPE)
        )
    if kind != "plain":
        dcn.convert_backbone(model, NETWORKS[network][0])
    for module in model.modules():
        if isinstance(module, dcn.ModulatedDeformConv2dPack):
            # Their inputs come normalised out of a ReLU: half of N(0, 1).
            fan_in = module.conv_offset.weight[0].numel()
            nn.init.normal_(module.conv_offset.weight, std=sigma * (2 / fan_in) ** 0.5)
            if kind == "torchvision":
                module.__class__ = TorchvisionPack
    return model


def images_and_targets(network: str, batch: int, size: int, device: str, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    if network == "resnet50":
        images = torch.randn(batch, 3, size, size, generator=generator)
        labels = torch.randint(1000, (batch,), generator=generator)
        return images.to(device, memory_format=torch.channels_last), labels.to(device)
    height, width = size, int(size * LANDSCAPE)
    if network.endswith("-fpn"):  # takes what the detector makes of its images: multiples of 32
        height, width = (-(-extent // 32) * 32 for extent in (height, width))
        images = torch.randn(batch, 3, height, width, generator=generator)
        return images.to(device, memory_format=torch.channels_last), None
    images, targets = [], []
    for _ in range(batch):
        images.append(torch.rand(3, height, width, generator=generator).to(device))
        corner = torch.rand(OBJECTS, 2, generator=generator) * 0.6
        extent = torch.rand(OBJECTS, 2, generator=generator) * 0.3 + 0.1
        boxes = torch.cat((corner, corner + extent), 1) * torch.tensor([width, height] * 2)
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        labels = torch.randint(1, 91, (OBJECTS,), generator=generator)
        target = {"boxes": boxes, "labels": labels, "masks": masks}
        targets.append({name: value.to(device) for name, value in target.items()})
    return images, targets


def loss_of(network: str, model: nn.Module, images, targets) -> Tensor:
    if network == "resnet50":
        return nn.functional.cross_entropy(model(images), targets)
    if network.endswith("-fpn"):
        return sum(level.float().square().mean() for level in model(images).values())
    return sum(model(images, targets).values())


def training_step(
    network: str, model: nn.Module, data, dtype: str, compiled: bool = False
) -> Callable[[], Tensor]:
    """A callable that makes one step and returns its loss."""
    device = next(model.parameters()).device.type
    half = bench.DTYPES[dtype].itemsize == 2
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=dtype == "f16")

    def forward() -> Tensor:
        with torch.autocast(device, bench.DTYPES[dtype] if half else None, enabled=half):
            return loss_of(network, model, *data)

    if compiled:
        forward = torch.compile(forward, fullgraph=True)
        if not scaler.is_enabled():  # which reads on the host whether to make the update
            optimizer.step = torch.compile(optimizer.step)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = forward()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def measure(network: str, dtype: str, args) -> dict:
    bench.set_precision(dtype)
    _, batch, size = NETWORKS[network]
    batch, size = args.batch or batch, args.size or size
    data = images_and_targets(network, batch, size, args.device)
    steps = {}
    for kind in ("plain", "dcn", *(("torchvision",) if args.torchvision else ())):
        model = build(network, size, kind, args.sigma).train()
        model = model.to(args.device, memory_format=torch.channels_last)
        steps[kind] = training_step(network, model, data, dtype)
    if args.compile:
        compiled = build(network, size, "dcn", args.sigma).train()
        compiled = compiled.to(args.device, memory_format=torch.channels_last)
        steps["compiled"] = training_step(network, compiled, data, dtype, compiled=True)
    times = bench.best_of_interleaved(steps, args.device, args.repeats, budget_ms=1.0)
    losses = {kind: step().item() for kind, step in steps.items()}
    if not all(map(math.isfinite, losses.values())):
        raise RuntimeError(f"what was timed is not training: losses {losses}")
    steps["dcn"]()
    return {
        "network": network,
        "dtype": dtype,
        "batch": batch,
        "size": size,
        "sigma": args.sigma,
        "plain_ms": times["plain"],
        "dcn_ms": times["dcn"],
        "torchvision_ms": times.get("torchvision"),
        "compiled_dcn_ms": times.get("compiled"),
        "plan": str(dcn.last_plan()),  # of the first deformable layer's backward pass
    }


def line(row: dict) -> str:
    others = ("dcn_ms", "torchvision_ms", "compiled_dcn_ms")
    ratios = (row[name] and row[name] / row["plain_ms"] for name in others)
    cells = [row["network"], row["dtype"], f"{row['plain_ms']:.1f}", f"{row['dcn_ms']:.1f}"]
    return f"| {' | '.join([*cells, *(f'{ratio:.2f}' if ratio else '-' for ratio in ratios)])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=["resnet50", "maskrcnn"])
    parser.add_argument(
        "--dtypes", nargs="+", choices=bench.DTYPES, default=["bf16", "f16", "tf32"]
    )
    parser.add_argument("--batch", type=int, help="other than the network's own")
    parser.add_argument("--size", type=int, help="height of an image; other than the network's own")
    parser.add_argument("--sigma", type=float, default=1.0, help="offset scale in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of at least five steps")
    parser.add_argument("--torchvision", action="store_true", help="its operator as well")
    parser.add_argument("--compile", action="store_true", help="the compiled step as well")
    parser.add_argument("--commit", help="what is measured, where git is not there to say so")
    parser.add_argument("--out", type=Path, help="where to write the rows, as JSON")
    args = parser.parse_args()
    if args.compile and "maskrcnn" in args.models:
        parser.error("--compile takes one graph, which a Mask R-CNN is not: choose other --models")
    torch.backends.cudnn.benchmark = True
    stamp = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "commit": measured_commit(Path(__file__).parent, args.commit),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    rows = []
    ratios = ("dcn", "torchvision", "compiled dcn")
    head = ("network", "dtype", "plain ms", "dcn ms", *(f"{kind} / plain" for kind in ratios))
    print(f"| {' | '.join(head)} |", "|---" * len(head) + "|", sep="\n")
    for network in args.models:
        for dtype in args.dtypes:
            rows.append(measure(network, dtype, args) | stamp)
            print(line(rows[-1]), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
