"""Exports a deformable ResNet to ONNX, runs it in ONNX Runtime, and compares the outputs.

    pip install onnx onnxscript onnxruntime
    python examples/export_onnx.py --out resnet.onnx

Each deformable layer becomes one standard node `DeformConv`; batch, height and width are dynamic.
"""

import argparse

import onnx
import onnxruntime
import torch
import torchvision

import dcn


def deformable_resnet(name: str) -> torch.nn.Module:
    """Freshly converted, its offsets would be zero; these are not, so that a mistake would show."""
    torch.manual_seed(0)
    model = dcn.convert_backbone(getattr(torchvision.models, name)(weights=None)).eval()
    for module in model.modules():
        if isinstance(module, dcn.ModulatedDeformConv2dPack):
            torch.nn.init.normal_(module.conv_offset.weight, std=0.01)
    return model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="a ResNet of torchvision")
    parser.add_argument("--size", type=int, default=224, help="px of the image exported with")
    parser.add_argument("--out", default="deformable.onnx")
    args = parser.parse_args(argv)

    model = deformable_resnet(args.model)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        model,
        (torch.randn(2, 3, args.size, args.size),),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        custom_translation_table=dcn.onnx.translation_table(),
        verbose=False,
    )
    program.save(args.out)
    onnx.checker.check_model(args.out, full_check=True)
    nodes = [node.op_type for node in onnx.load(args.out).graph.node]
    print(f"{args.out}: {len(nodes)} nodes, {nodes.count('DeformConv')} of them DeformConv")

    session = onnxruntime.InferenceSession(args.out, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    for batch, height, width in ((1, args.size, args.size), (3, args.size + 32, args.size)):
        x = torch.randn(batch, 3, height, width)
        (theirs,) = session.run(None, {name: x.numpy()})
        with torch.inference_mode():
            ours = model(x)
        error = ((torch.from_numpy(theirs) - ours).norm() / ours.norm()).item()
        print(f"{batch} x {height} x {width} px: they differ by {error:.1e} of the output's norm")


if __name__ == "__main__":
    main()
