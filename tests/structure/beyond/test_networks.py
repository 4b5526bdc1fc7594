"""Networks other than classifiers: their groups, and the exact removal of 30 % of every group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = pytest.mark.slow


def layer(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.SiLU())


class PartialStage(nn.Module):
    """YOLOv8's C2f: the second half of the channels passes bottlenecks, all parts are concatenated."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        half = width // 2
        self.enter = layer(width, width, 1)
        self.leave = layer(half * (2 + depth), width, 1)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(layer(half, half), layer(half, half)) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for bottleneck in self.bottlenecks:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Yolo(nn.Module):
    """Three levels of features, up and down again, a box head and a class head at each, boxes decoded."""

    def __init__(self, classes: int = 4, bins: int = 4) -> None:
        super().__init__()
        self.sizes = (4 * bins, classes)
        self.bins = bins
        self.first = nn.Sequential(layer(3, 8, stride=2), PartialStage(8, 1))
        self.second = nn.Sequential(layer(8, 16, stride=2), PartialStage(16, 2))
        self.third = nn.Sequential(layer(16, 24, stride=2), PartialStage(24, 1))
        self.up_second, self.up_first = layer(24 + 16, 16, 1), layer(16 + 8, 8, 1)
        self.down = layer(8, 8, stride=2)
        self.join = PartialStage(24, 1)
        widths = (8, 24, 24)
        self.boxes = nn.ModuleList(nn.Sequential(layer(w, 8), nn.Conv2d(8, 4 * bins, 1)) for w in widths)
        self.classes = nn.ModuleList(nn.Sequential(layer(w, 8), nn.Conv2d(8, classes, 1)) for w in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.first(x)
        second = self.second(first)
        third = self.third(second)
        up_second = self.up_second(torch.cat([F.interpolate(third, scale_factor=2.0), second], 1))
        up_first = self.up_first(torch.cat([F.interpolate(up_second, scale_factor=2.0), first], 1))
        levels = (up_first, self.join(torch.cat([self.down(up_first), up_second], 1)), third)
        maps = [
            torch.cat([box(level), kind(level)], 1)
            for box, kind, level in zip(self.boxes, self.classes, levels, strict=True)
        ]
        box, kind = torch.cat([found.flatten(2) for found in maps], 2).split(self.sizes, 1)
        images, _, places = box.shape
        spread = box.view(images, 4, self.bins, places).transpose(2, 1).softmax(1)
        sides = F.conv2d(spread, torch.arange(self.bins, dtype=x.dtype).view(1, -1, 1, 1)).squeeze(1)
        return torch.cat([sides, kind.sigmoid()], 1), maps


class SuperResolution(nn.Module):
    """EDSR: a long shortcut, scaled residual blocks, pixel shuffle twice; each block owns its convolutions."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, 2 * width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(2 * width, width, 3, padding=1),
            )
            for _ in range(2)
        )
        up = (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.up = nn.Sequential(*up, nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        start = self.head(x)
        features = start
        for block in self.body:
            features = features + 0.1 * block(features)
        return self.tail(self.up(features + start)) + F.interpolate(x, scale_factor=4.0, mode="bicubic")


class UNet(nn.Module):
    """Skips by concatenation; upsampled features are padded to the size of the skip."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.down = nn.ModuleList(layer(1 if i == 0 else width * i, width * (i + 1)) for i in range(3))
        self.up = nn.ModuleList(nn.ConvTranspose2d(width * (i + 1), width * i, 2, 2) for i in (2, 1))
        self.join = nn.ModuleList(layer(2 * width * i, width * i) for i in (2, 1))
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage in self.down:
            skips.append(stage(F.max_pool2d(skips[-1], 2) if skips else x))
        x = skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            skip, x = skips.pop(), up(x)
            x = F.pad(x, [0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]])
            x = join(torch.cat([skip, x], 1))
        return self.out(x)


class Shared(nn.Module):
    """One convolution used three times, each time with a normalisation of its own; one head on two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.again = nn.Conv2d(10, 10, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(10) for _ in range(3))
        self.small, self.large = nn.Conv2d(10, 8, 1), nn.Conv2d(10, 8, 1)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.stem(x))
        for norm in self.norms:
            x = F.relu(norm(self.again(x)))
        levels = (self.large(x), self.small(F.max_pool2d(x, 2)))
        return [self.head(level).permute(0, 2, 3, 1).reshape(len(x), -1, 3) for level in levels]


class TwoInputs(nn.Module):
    """A picture and a signal; the signal's features scale the picture's."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(3, 8, 3)
        self.signal = nn.Conv1d(2, 10, 3)
        self.gate = nn.Linear(10, 8)
        self.join = nn.Linear(18, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, picture: Tensor, signal: Tensor) -> Tensor:
        heard = F.relu(self.signal(signal)).amax(-1)
        seen = F.relu(self.picture(picture)) * self.gate(heard).sigmoid()[:, :, None, None]
        return self.last(F.relu(self.join(torch.cat([seen.mean((2, 3)), heard], 1))))


class BareParameters(nn.Module):
    """Weights that belong to no layer: a kernel, a scale, positions, a class token, lists of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.kernel, self.bias = nn.Parameter(torch.randn(12, 8, 3, 3)), nn.Parameter(torch.randn(12))
        self.positions, self.token = (
            nn.Parameter(torch.randn(1, 12, 6, 6)),
            nn.Parameter(torch.randn(1, 1, 12)),
        )
        self.affine = nn.ParameterList([nn.Parameter(torch.rand(12)) for _ in range(2)])
        self.named = nn.ParameterDict({"gain": nn.Parameter(torch.rand(1, 12, 1, 1))})
        self.last = nn.Parameter(torch.randn(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x)) * self.scale
        x = (F.conv2d(x, self.kernel, self.bias, padding=1) + self.positions) * self.named["gain"]
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        return F.gelu(tokens * self.affine[0] + self.affine[1]).mean(1) @ self.last


class Wave(nn.Module):
    """One dimension: strided, dilated depthwise, transposed and grouped transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv1d(1, 8, 7, 2, 3),
            nn.BatchNorm1d(8),
            nn.PReLU(8),
            nn.Conv1d(8, 12, 5, 2, 2),
            nn.LeakyReLU(),
        )
        self.mix = nn.Sequential(nn.Conv1d(12, 12, 3, 1, 2, dilation=2, groups=12), nn.Conv1d(12, 12, 1))
        self.decode = nn.Sequential(
            nn.ConvTranspose1d(12, 8, 4, 2, 1), nn.BatchNorm1d(8), nn.GELU(),
            nn.ConvTranspose1d(8, 8, 3, 1, 1, groups=4), nn.ReLU(), nn.ConvTranspose1d(8, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        return self.decode(x + self.mix(x))


class Generator(nn.Module):
    """DCGAN with transposed convolutions; the first view has a size that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8 * 4)
        self.rest = nn.Sequential(
            nn.ConvTranspose2d(8, 10, 4, 2, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
            nn.ConvTranspose2d(10, 10, 4, 2, 1, groups=10), nn.ReLU(), nn.ConvTranspose2d(10, 3, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x).view(-1, 8, 2, 2))


# Network, inputs, and how many groups can be pruned.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "yolo": (Yolo, torch.randn(2, 3, 32, 32), 25),
    "super-resolution": (SuperResolution, torch.randn(2, 3, 6, 6), 5),
    "u-net": (UNet, torch.randn(2, 1, 14, 10), 7),
    "shared layers": (Shared, torch.randn(2, 3, 8, 8), 3),
    "two inputs": (TwoInputs, (torch.randn(2, 3, 8, 8), torch.randn(2, 2, 9)), 3),
    "two named inputs": (TwoInputs, {"picture": torch.randn(2, 3, 8, 8), "signal": torch.randn(2, 2, 9)}, 3),
    "bare parameters": (BareParameters, torch.randn(2, 3, 6, 6), 2),
    "1-D": (Wave, torch.randn(2, 1, 32), 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_thirty_percent_of_every_group(exactly: Callable[..., Any], name: str) -> None:
    maker, inputs, groups = NETWORKS[name]
    thinned = exactly(maker(), inputs)
    assert len(thinned.graph.groups) == groups
    # Outputs: super-resolution adds it to the enlarged input, YOLO decodes its boxes with a fixed convolution.
    decoded = ("add has an input without known channels", "convolution moves along the channels")
    assert all(reason.startswith(decoded) for reason in thinned.frozen.values())
    assert thinned.graph.cost.params(thinned.plan) < 0.7 * thinned.graph.cost.params()


def test_a_constant_size_freezes_only_its_group(exactly: Callable[..., Any]) -> None:
    thinned = exactly(Generator(), torch.randn(2, 5))
    assert list(thinned.frozen) == ["first"]
    assert thinned.frozen["first"].startswith("view has a constant size")
    assert len(thinned.graph.groups) == 1


class Remembers(nn.Module):
    """Attention biases are computed once in evaluation mode and kept until training starts, as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.biases = nn.Parameter(torch.randn(8, 1, 1))
        self.register_buffer("scale", torch.ones(()))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Remembers:
        super().train(mode)
        if mode and self.kept:
            self.kept = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        place = str(x.device)
        if place not in self.kept:
            self.kept[place] = self.biases * self.scale
        return self.last(F.relu(self.first(x) + self.kept[place]))


def test_values_cached_between_calls_are_not_constants(exactly: Callable[..., Any]) -> None:
    model, images = Remembers().eval(), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        model(images)
    kept = model.kept["cpu"]
    thinned = exactly(model, images)
    assert [group.name for group in thinned.graph.groups] == ["first"]
    assert not thinned.frozen
    assert model.kept == {"cpu": kept}
