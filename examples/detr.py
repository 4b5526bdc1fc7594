"""Prune a DETR of transformers to a fraction of its FLOPs, with its own matching loss.

The network is small, has random weights and is trained here on drawn images: one bright square or disc in each. Replace
``network`` by your detector and ``pictures`` by your data. Needs ``pip install transformers scipy``.

python examples/detr.py --flops 0.6 --steps 200
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

import prunelab

CLASSES = {0: "square", 1: "disc"}
Targets = list[dict[str, Tensor]]


def network(width: int = 32) -> nn.Module:
    """DETR (Carion et al. 2020) with a small ResNet, two layers on each side: images (N, 3, H, W) -> 5 boxes each."""
    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", out_features=["stage3"]
    )  # fmt: skip
    config = DetrConfig(
        backbone_config=backbone, d_model=width, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width, encoder_attention_heads=4, decoder_attention_heads=4, num_queries=5, dropout=0.0,
        id2label=CLASSES,
    )  # fmt: skip
    return DetrForObjectDetection(config).eval()


def pictures(count: int, size: int = 64) -> tuple[Tensor, Targets]:
    """Images (count, 3, size, size), and the class and box (centre, width and height in [0, 1]) of each."""
    down, along = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images, targets = 0.3 * torch.randn(count, 3, size, size), []
    for image in images:
        kind, half = int(torch.randint(2, ())), int(torch.randint(6, 16, ()))
        y, x = torch.randint(half, size - half, (2,)).tolist()
        dy, dx = (down - y).abs(), (along - x).abs()
        inside = torch.maximum(dy, dx) <= half if kind == 0 else dy**2 + dx**2 <= half**2
        image[:, inside] += 1 + torch.rand(3, 1)
        box = torch.tensor([[x, y, 2 * half, 2 * half]]) / size
        targets.append({"class_labels": torch.tensor([kind]), "boxes": box})
    return images, targets


def loss_of(model: nn.Module, outputs: Any, targets: Targets) -> Tensor:
    """The loss of DETR: each object is matched to one query; cross entropy, L1 distance and generalised IoU."""
    return model.loss_function(
        outputs.logits, targets, torch.device("cpu"), outputs.pred_boxes, model.config
    )[0]


def train(model: nn.Module, steps: int, rate: float) -> None:
    """AdamW on new pictures in each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        images, targets = pictures(16)
        optimizer.zero_grad()
        loss_of(model, model(images), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def held_out_loss(model: nn.Module, images: Tensor, targets: Targets) -> float:
    """The loss on pictures that are not used for training. (A DETR needs many more steps to find boxes precisely.)"""
    return float(loss_of(model, model(images), targets))


def main() -> None:
    """Train, prune by the Taylor criterion on DETR's loss, fine-tune; print loss and costs."""
    parser = argparse.ArgumentParser(description="Prune a DETR.")
    parser.add_argument("--flops", type=float, default=0.6, help="the fraction that is kept")
    parser.add_argument("--steps", type=int, default=200, help="of the training and of the recovery")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, test = network(), pictures(64)
    train(model, options.steps, rate=1e-3)
    quality = [held_out_loss(model, *test)]

    method = prunelab.ImportanceMethod(
        criterion=prunelab.Taylor(),
        budget=prunelab.Budget(flops=options.flops),
        images=64,
        exact=True,  # channels that pass LayerNorm stay: their removal is not the same as masking
        outputs=("logits", "pred_boxes"),  # not the hidden states, which DETR returns too
    )
    calibration = [pictures(8) for _ in range(8)]
    context = method.context(
        model, test[0][:1], calibration, loss=lambda outputs, targets: loss_of(model, outputs, targets)
    )
    plan = method.decide(context)
    full = copy.deepcopy(model)
    prunelab.apply(model, plan)
    difference = prunelab.check(full, model, plan, test[0][:2], outputs=method.outputs)
    quality.append(held_out_loss(model, *test))
    train(model, options.steps, rate=1e-3)
    quality.append(held_out_loss(model, *test))

    cost = context.graph.cost
    print(f"loss        {quality[0]:.2f} -> {quality[2]:.2f} ({quality[1]:.2f} before recovery)")
    print(f"FLOPs       {cost.flops():,} -> {cost.flops(plan):,} ({cost.flops(plan) / cost.flops():.1%})")
    print(f"parameters  {cost.params():,} -> {cost.params(plan):,}")
    print(f"pruned and masked network differ by {difference:.0e}")


if __name__ == "__main__":
    main()
