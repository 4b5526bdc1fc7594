"""Sampled windows are the inputs of the layer's outputs, and every plain reader is found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunelab.methods import Budget, PruningContext
from prunelab.methods.calibration import Calibration
from prunelab.methods.reconstruction.moments import measure_moments
from prunelab.methods.reconstruction.readers import find_readers, sampled_windows
from prunelab.models import build
from prunelab.structure import analyze

IMAGES = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))

LAYERS = [
    nn.Conv2d(4, 5, 3),
    nn.Conv2d(4, 5, 3, stride=2, padding=1),
    nn.Conv2d(4, 5, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
    nn.Conv2d(4, 5, 3, padding="same"),
    nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(4, 5, 1, stride=2),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_windows_times_weights_are_the_outputs(layer: nn.Conv2d) -> None:
    windows = sampled_windows(layer, IMAGES, positions=1000, seed=0)
    outputs = windows @ layer.weight.flatten(1).T + layer.bias
    assert torch.allclose(outputs, layer(IMAGES).permute(0, 2, 3, 1).reshape(-1, 5), atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_sample_holds_rows_of_each_image_and_the_seed_decides(layer: nn.Conv2d) -> None:
    everything = sampled_windows(layer, IMAGES, positions=1000, seed=0).reshape(
        3, -1, layer.weight[0].numel()
    )
    some, same, other = (
        sampled_windows(layer, IMAGES, positions=4, seed=seed).reshape(3, 4, -1) for seed in (0, 0, 1)
    )
    assert torch.equal(some, same) and not torch.equal(some, other)
    for image in range(3):
        assert all((everything[image] == row).all(dim=1).any() for row in some[image])


def test_a_linear_layer_reads_rows_or_tokens() -> None:
    layer = nn.Linear(8, 2)
    assert torch.equal(sampled_windows(layer, IMAGES[:, 0, 0], 10, 0), IMAGES[:, 0, 0])
    assert sampled_windows(layer, IMAGES[:, 0], 5, 0).shape == (15, 8)
    assert torch.equal(sampled_windows(layer, IMAGES[:, 0], 9, 0), IMAGES[:, 0].reshape(-1, 8))


def test_moments_are_the_means_over_all_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(30, 2)
    )
    graph = analyze(model, IMAGES[:1])
    loader = Calibration([(IMAGES[:2], None), (IMAGES[2:], None)], images=3)
    context = PruningContext(model, graph, Budget(flops=0.5), calibration=loader)
    readers = find_readers(model, graph)
    assert sorted(readers) == ["2.weight", "5.weight"]
    found = measure_moments(context, readers.values(), positions=1000)
    with torch.no_grad():
        hidden = model[:2](IMAGES)
        for name, layer, entered in (
            ("2.weight", model[2], hidden),
            ("5.weight", model[5], model[:5](IMAGES)),
        ):
            windows = sampled_windows(layer, entered, 1000, 0).double()
            assert torch.allclose(torch.from_numpy(found[name].second), windows.T @ windows / len(windows))
            assert torch.allclose(torch.from_numpy(found[name].mean), windows.mean(dim=0))
    assert not model[2]._forward_pre_hooks and model.training


def test_grouped_convolutions_and_other_arithmetic_are_no_readers() -> None:
    model = build("cifar_mobilenetv1", num_classes=10)
    graph = analyze(model, torch.zeros(1, 3, 32, 32))
    modules = dict(model.named_modules())
    assert graph.groups
    for reader in find_readers(model, graph).values():
        assert getattr(modules[reader.name], "groups", 1) == 1

    class Standardised(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)

    other = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), Standardised(6, 5, 3))
    assert find_readers(other, analyze(other, IMAGES[:1])) == {}
