"""Prune a YOLO detector of ultralytics to a fraction of its FLOPs, with its own loss, data loader and trainer.

ultralytics is not a dependency of prunelab: ``pip install ultralytics onnx onnxruntime``. Its licence is AGPL-3.0 or a
commercial one; see its authors' terms for networks that are trained with it. YOLOv8n and YOLO11n have been tried.

    python examples/yolo.py --weights yolo11n.pt --data my_data.yaml --flops 0.6 --epochs 100 --size 640
    python examples/yolo.py                    # a minute: random weights of yolov8n.yaml, drawn images
    python examples/yolo.py --weights yolo11n.yaml

Writes the pruned network to ``OUT/pruned`` (``prunelab.save``) and ``OUT/pruned.onnx``.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules import C2f
from ultralytics.nn.tasks import DetectionModel

import prunelab


def draw(folder: Path, count: int, size: int) -> Path:
    """Write ``count`` images of one or two bright squares (class 0) or discs (class 1), their boxes, and data.yaml."""
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = generator.integers(0, 60, (size, size, 3), dtype=np.uint8)
            lines = []
            for _ in range(generator.integers(1, 3)):
                label, half = int(generator.integers(2)), int(generator.integers(size // 10, size // 5))
                x, y = (int(value) for value in generator.integers(half, size - half, 2))
                colour = [int(value) for value in generator.integers(150, 256, 3)]
                if label == 0:
                    cv2.rectangle(image, (x - half, y - half), (x + half, y + half), colour, -1)
                else:
                    cv2.circle(image, (x, y), half, colour, -1)
                numbers = (value / size for value in (x, y, 2 * half, 2 * half))
                lines.append(" ".join([str(label), *(f"{value:.4f}" for value in numbers)]))
            cv2.imwrite(str(folder / "images" / part / f"{number}.png"), image)
            (folder / "labels" / part / f"{number}.txt").write_text("\n".join(lines) + "\n")
    names = "{0: square, 1: disc}"
    path = folder / "data.yaml"
    path.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: {names}\n")
    return path


def trained(network: nn.Module, settings: dict[str, Any]) -> nn.Module:
    """``network`` after the epochs of ultralytics' own trainer: the moving average of its weights.

    A trainer usually builds the network of its YAML file, which would be the full one; here it has the network already.
    """
    trainer = DetectionTrainer(overrides=settings)
    trainer.model = network
    trainer.train()
    return trainer.ema.ema.float().eval()


def calibration(network: nn.Module, settings: dict[str, Any], batches: int) -> list[dict[str, Any]]:
    """Batches of the training images with their boxes, as the trainer makes them."""
    trainer = DetectionTrainer(overrides=settings)
    trainer.model = network
    loader = trainer.get_dataloader(
        trainer.data["train"], batch_size=trainer.args.batch, rank=-1, mode="train"
    )
    found = [trainer.preprocess_batch(batch) for batch, _ in zip(loader, range(batches), strict=False)]
    for batch in found:
        batch["img"] = batch["img"].contiguous()
    return found


def quality(detector: YOLO, network: nn.Module, settings: dict[str, Any]) -> float:
    """mAP (50 to 95 %) on the validation images, measured by ultralytics."""
    detector.model = copy.deepcopy(network)  # validation fuses the layers of its network
    wanted = ("data", "imgsz", "batch", "workers", "device", "plots", "project", "exist_ok", "verbose")
    return float(detector.val(**{name: settings[name] for name in wanted}).box.map)


def main() -> None:
    """Train (only random weights), prune by Taylor on the detector's loss, fine-tune, validate, export, save, load."""
    parser = argparse.ArgumentParser(description="Prune a YOLO detector.")
    parser.add_argument("--weights", default="yolov8n.yaml", help="a .pt file, or a .yaml for random weights")
    parser.add_argument("--data", help="ultralytics' data.yaml; by default images are drawn")
    parser.add_argument("--flops", type=float, default=0.6, help="the fraction that is kept")
    parser.add_argument("--epochs", type=int, default=3, help="of the recovery (and of the training before)")
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--images", type=int, default=32, help="how many are drawn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("yolo"))
    options = parser.parse_args()
    data = options.data or str(draw(options.out / "drawn", options.images, options.size))
    settings: dict[str, Any] = {
        "data": data, "imgsz": options.size, "batch": options.batch, "epochs": options.epochs, "workers": 0,
        "device": options.device, "amp": False, "plots": False, "project": str(options.out.resolve() / "runs"),
        "exist_ok": True, "verbose": False, "model": options.weights,
    }  # fmt: skip
    torch.manual_seed(0)
    detector = YOLO(options.weights)
    classes = DetectionTrainer(overrides=settings).data["nc"]
    network = with_classes(detector, options.weights, classes)
    if options.weights.endswith(".yaml"):
        network = trained(network, settings)
    before = quality(detector, network, settings)

    batches = calibration(network, settings, 4)
    example = torch.zeros(1, 3, options.size, options.size)
    network.criterion = network.init_criterion()
    method = prunelab.ImportanceMethod(
        criterion=prunelab.Taylor(),
        budget=prunelab.Budget(flops=options.flops),
        images=4 * options.batch,
        outputs=0,  # the boxes and scores; evaluation mode also returns the features that training mode uses
    )
    context = method.context(
        network,
        example,
        batches,
        loss=lambda outputs, batch: network.criterion(outputs, batch)[0].sum(),
        unpack=lambda batch: (batch["img"], batch),
    )
    plan = method.decide(context)
    full = copy.deepcopy(network)
    prunelab.apply(network, plan)
    difference = prunelab.check(full, network, plan, batches[0]["img"][:2], outputs=0)
    between = quality(detector, network, settings)
    network = trained(network, settings)
    after = quality(detector, network, settings)

    folder = prunelab.save(network, options.out / "pruned")
    loaded = prunelab.load(folder, model=with_classes(YOLO(options.weights), options.weights, classes))
    with torch.no_grad():
        same = torch.equal(network(batches[0]["img"])[0], loaded(batches[0]["img"])[0])
    detector.model = for_export(network)
    exported = Path(detector.export(format="onnx", imgsz=options.size, simplify=False, device=options.device))
    shutil.move(exported, options.out / "pruned.onnx")
    session = onnxruntime.InferenceSession(options.out / "pruned.onnx", providers=["CPUExecutionProvider"])
    image = batches[0]["img"][:1].cpu()
    (of_file,) = session.run(None, {"images": image.numpy()})
    with torch.no_grad():
        of_network = network.cpu()(image)[0].numpy()
    deviation = float(np.abs(of_file - of_network).max() / np.abs(of_network).max())

    cost = context.graph.cost
    print(f"mAP 50-95   {before:.1%} -> {after:.1%} ({between:.1%} before recovery)")
    print(f"FLOPs       {cost.flops():,} -> {cost.flops(plan):,} ({cost.flops(plan) / cost.flops():.1%})")
    print(f"parameters  {cost.params():,} -> {cost.params(plan):,}")
    print(f"pruned and masked network differ by {difference:.0e}")
    print(f"loaded from {folder}: {'the same outputs' if same else 'OTHER OUTPUTS'}")
    print(f"{options.out / 'pruned.onnx'} and the network differ by {deviation:.0e}")


def for_export(network: nn.Module) -> nn.Module:
    """A copy in the form that ultralytics' exporter needs."""
    network = copy.deepcopy(network)
    network.args = dict(vars(network.args))  # the trainer has stored its settings in another form
    for module in network.modules():
        if isinstance(module, C2f):  # the exporter calls a method that splits by this width
            module.c = module.cv1.conv.out_channels // 2
    return network


def with_classes(detector: YOLO, weights: str, classes: int) -> nn.Module:
    """The network of ``detector`` for a number of classes; the other layers keep their weights."""
    network = DetectionModel(detector.model.yaml, nc=classes, verbose=False)
    if weights.endswith(".pt"):
        network.load(detector.model)
    network.args, network.task = detector.model.args, "detect"
    return network.eval()


if __name__ == "__main__":
    main()
