"""Prune a network that labels pixels: a small U-Net, with its own loss, to a fraction of its FLOPs.

The images are drawn here: discs and squares on a noisy background. Replace ``pictures`` by your data.

python examples/segmentation.py --flops 0.4 --steps 150
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn

import prunelab

CLASSES = ("background", "disc", "square")


class Twice(nn.Sequential):
    """Two convolutions, each with batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) of three resolutions: images (N, 1, H, W) -> scores (N, classes, H, W)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = (
            Twice(1, width),
            Twice(width, 2 * width),
            Twice(2 * width, 4 * width),
        )
        self.pool = nn.MaxPool2d(2)
        self.up_middle = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up_fine = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.joined_middle, self.joined_fine = Twice(4 * width, 2 * width), Twice(2 * width, width)
        self.head = nn.Conv2d(width, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of each pixel."""
        fine = self.fine(images)
        middle = self.middle(self.pool(fine))
        coarse = self.coarse(self.pool(middle))
        middle = self.joined_middle(torch.cat([self.up_middle(coarse), middle], dim=1))
        fine = self.joined_fine(torch.cat([self.up_fine(middle), fine], dim=1))
        return self.head(fine)


def pictures(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images (count, 1, size, size) with a disc and a square of random brightness, and the class of each pixel."""
    down, along = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images, classes = (
        0.3 * torch.randn(count, 1, size, size),
        torch.zeros(count, size, size, dtype=torch.long),
    )
    for image, of_pixel in zip(images, classes, strict=True):
        for number in (1, 2):
            y, x = torch.randint(6, size - 6, (2,)).tolist()
            dy, dx = (down - y).abs(), (along - x).abs()
            inside = dy**2 + dx**2 <= 30 if number == 1 else torch.maximum(dy, dx) <= 4
            image[0, inside] += 1 + torch.rand(())
            of_pixel[inside] = number
    return images, classes


def loss_of(scores: Tensor, classes: Tensor) -> Tensor:
    """The mean cross entropy of all pixels."""
    return nn.functional.cross_entropy(scores, classes, weight=torch.tensor([0.2, 1.0, 1.0]))


def train(network: nn.Module, steps: int, rate: float) -> None:
    """Adam on new pictures in each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    network.train()
    for _ in range(steps):
        images, classes = pictures(8)
        optimizer.zero_grad()
        loss_of(network(images), classes).backward()
        optimizer.step()
    network.eval()


@torch.no_grad()
def mean_iou(network: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Intersection over union, averaged over the classes."""
    found = network(images).argmax(dim=1)
    each = range(len(CLASSES))
    shares = [((found == k) & (classes == k)).sum() / ((found == k) | (classes == k)).sum() for k in each]
    return float(torch.stack(shares).mean())


def main() -> None:
    """Train, prune by the Taylor criterion on the network's own loss, fine-tune; print quality and costs."""
    parser = argparse.ArgumentParser(description="Prune a U-Net.")
    parser.add_argument("--flops", type=float, default=0.4, help="the fraction that is kept")
    parser.add_argument("--steps", type=int, default=150, help="of the training and of the recovery")
    options = parser.parse_args()
    torch.manual_seed(0)
    network, test = UNet(), pictures(32)
    train(network, options.steps, rate=3e-3)
    quality = [mean_iou(network, *test)]

    method = prunelab.ImportanceMethod(
        criterion=prunelab.Taylor(), budget=prunelab.Budget(flops=options.flops), images=64
    )
    context = method.context(network, test[0][:1], [pictures(8) for _ in range(8)], loss=loss_of)
    plan = method.decide(context)
    full = copy.deepcopy(network)
    prunelab.apply(network, plan)
    difference = prunelab.check(full, network, plan, test[0][:2])
    quality.append(mean_iou(network, *test))
    train(network, options.steps, rate=1e-3)
    quality.append(mean_iou(network, *test))

    cost = context.graph.cost
    print(f"mean IoU    {quality[0]:.1%} -> {quality[2]:.1%} ({quality[1]:.1%} before recovery)")
    print(f"FLOPs       {cost.flops():,} -> {cost.flops(plan):,} ({cost.flops(plan) / cost.flops():.1%})")
    print(f"parameters  {cost.params():,} -> {cost.params(plan):,}")
    print(f"pruned and masked network differ by {difference:.0e}")


if __name__ == "__main__":
    main()
