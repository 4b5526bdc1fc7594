"""Predicted latency: a sum over layers, interpolated between the widths that are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunelab
from prunelab import Target
from prunelab.evaluation import LatencyModel, LatencyTable
from prunelab.evaluation.layer_shapes import LayerShape
from prunelab.evaluation.predicted_latency import corners, measured_widths


def work(shape: LayerShape) -> float:
    """A layer takes as long as it has weights."""
    return float(np.prod(shape.kernel)) * shape.inputs * shape.outputs / shape.groups


def predicted(network: nn.Module, size: int = 8, measure: Any = work) -> tuple[Any, Any]:
    """The graph with the latency of a table, and the table."""
    table = LatencyTable(Target(runtime="eager"), measure=measure)
    model = LatencyModel(Target(runtime="eager"), table, (3, size, size), 1.0, lambda: None)
    return model.attach(prunelab.analyze(network, torch.zeros(1, 3, size, size))), table


def chain(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def test_work_that_is_a_product_of_widths_is_predicted_exactly() -> None:
    graph, _ = predicted(chain(300, 200, 16))
    latency = graph.cost.function("latency")
    widths = np.array([[300, 200], [137, 90], [1, 1], [70, 199]])
    expected = 9 * (3 * widths[:, 0] + widths[:, 0] * widths[:, 1] + widths[:, 1] * 16)
    assert np.allclose(latency(widths), expected)


def test_steps_of_eight_channels_are_seen() -> None:
    graph, _ = predicted(chain(64, 16), measure=lambda shape: float(-(-shape.outputs // 16)))
    latency = graph.cost.function("latency")
    assert latency(np.array([[40], [48], [56]])).tolist() == [4.0, 4.0, 5.0]


def test_layers_of_equal_shape_are_measured_once() -> None:
    graph, table = predicted(chain(16, 16, 16, 16))
    assert graph.cost.function("latency")() == 9 * (3 * 16 + 3 * 16 * 16)
    assert table.measured == 2


def test_a_depthwise_convolution_follows_its_width() -> None:
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 4, 1))
    graph, table = predicted(network)
    assert graph.cost.function("latency")(np.array([[16]])) == [3 * 16 + 9 * 16 + 16 * 4]
    assert any(" groups 16 " in key for key in table.entries)


def test_a_grouped_convolution_keeps_its_groups() -> None:
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=4), nn.Conv2d(32, 4, 1))
    graph, table = predicted(network)
    graph.cost.function("latency")(np.array([[3 * 8 for _ in graph.groups]]))
    grouped = [key for key in table.entries if "groups 4" in key]
    assert grouped


class Block(nn.Module):
    """y = x + f(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.two = nn.Conv2d(6, 6, 3, padding=1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.two(self.one(images).relu())


def test_a_dropped_block_takes_no_time() -> None:
    graph, _ = predicted(nn.Sequential(nn.Conv2d(3, 6, 1), Block(), nn.Conv2d(6, 4, 1)))
    latency = graph.cost.function("latency")
    (block,) = graph.blocks
    assert latency() - latency(graph.plan({}, [block.name])) == pytest.approx(2 * 9 * 6 * 6)


@pytest.mark.parametrize("full", [1, 3, 8, 24, 64, 100, 512, 2048])
def test_measured_widths(full: int) -> None:
    grid = measured_widths(full, 1)
    assert grid[-1] == full and grid == sorted(set(grid)) and grid[0] >= 1
    assert set(range(8, min(full, 64), 8)) <= set(grid)
    for width in range(1, full + 1):
        around = corners(width, full, 1)
        assert sum(weight for _, weight in around) == pytest.approx(1)
        assert sum(at * weight for at, weight in around) == pytest.approx(max(width, grid[0]))
