"""Prune a network that doubles the resolution of images, and measure PSNR: residual blocks as in EDSR.

The images are drawn here: sums of waves. Replace ``pictures`` by your data.

python examples/super_resolution.py --flops 0.5 --steps 200
"""

from __future__ import annotations

import argparse
import copy
from math import log10, pi

import torch
from torch import Tensor, nn

import prunelab


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) -> the same shape."""
        return maps + 0.1 * self.second(self.first(maps).relu())


class Doubler(nn.Module):
    """EDSR (Lim et al. 2017) without normalisation, small: images (N, 1, H, W) -> (N, 1, 2 H, 2 W)."""

    def __init__(self, width: int = 16, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.widen, self.shuffle = nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """The bilinear enlargement plus what the network adds."""
        maps = self.stem(images)
        maps = maps + self.last(self.blocks(maps))
        details = self.head(self.shuffle(self.widen(maps)))
        return details + nn.functional.interpolate(images, scale_factor=2, mode="bilinear")


def pictures(count: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Images (count, 1, size, size) and the same at twice the resolution, with values in [0, 1]."""
    down, along = torch.meshgrid(torch.arange(2 * size), torch.arange(2 * size), indexing="ij")
    frequency, phase = 0.15 + 0.9 * torch.rand(2, 4, count, 1, 1, 1), 2 * pi * torch.rand(4, count, 1, 1, 1)
    fine = torch.sigmoid(2 * torch.sin(frequency[0] * down + frequency[1] * along + phase).sum(0))
    return nn.functional.avg_pool2d(fine, 2), fine


def train(network: nn.Module, steps: int, rate: float) -> None:
    """Adam and the mean absolute error, on new pictures in each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    network.train()
    for _ in range(steps):
        coarse, fine = pictures(8)
        optimizer.zero_grad()
        nn.functional.l1_loss(network(coarse), fine).backward()
        optimizer.step()
    network.eval()


@torch.no_grad()
def psnr(network: nn.Module, coarse: Tensor, fine: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for values in [0, 1]."""
    return -10 * log10(float(nn.functional.mse_loss(network(coarse), fine)))


def main() -> None:
    """Train, prune by the Taylor criterion on the network's own loss, fine-tune; print PSNR."""
    parser = argparse.ArgumentParser(description="Prune a super-resolution network.")
    parser.add_argument("--flops", type=float, default=0.5, help="the fraction that is kept")
    parser.add_argument("--steps", type=int, default=200, help="of the training and of the recovery")
    options = parser.parse_args()
    torch.manual_seed(0)
    network, test = Doubler(), pictures(32)
    train(network, options.steps, rate=2e-3)
    quality = [psnr(network, *test)]

    method = prunelab.ImportanceMethod(
        criterion=prunelab.Taylor(), budget=prunelab.Budget(flops=options.flops), images=64
    )
    calibration = [pictures(8) for _ in range(8)]
    context = method.context(network, test[0][:1], calibration, loss=nn.functional.l1_loss)
    plan = method.decide(context)
    full = copy.deepcopy(network)
    prunelab.apply(network, plan)
    difference = prunelab.check(full, network, plan, test[0][:2])
    quality.append(psnr(network, *test))
    train(network, options.steps, rate=1e-3)
    quality.append(psnr(network, *test))

    cost = context.graph.cost
    print(f"PSNR        {quality[0]:.2f} dB -> {quality[2]:.2f} dB ({quality[1]:.2f} dB before recovery)")
    print(f"FLOPs       {cost.flops():,} -> {cost.flops(plan):,} ({cost.flops(plan) / cost.flops():.1%})")
    print(f"parameters  {cost.params():,} -> {cost.params(plan):,}")
    print(f"pruned and masked network differ by {difference:.0e}")


if __name__ == "__main__":
    main()
