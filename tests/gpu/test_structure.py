"""Analysis, surgery and the masked == pruned check of networks that are on the GPU."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import prunelab
from prunelab.structure.surgery.candidate import candidate

NETWORKS = (
    "resnet18",
    "mobilenetv2_050",
    "densenet121",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "regnetx_002",
)

EXPORTERS = ("onnx", "onnxscript", "onnxruntime")


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    more = {"img_size": 64} if name.startswith("vit") else {}
    model: nn.Module = timm.create_model(name, num_classes=10, **more).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pruned_network_computes_what_the_masked_one_does(name: str, device: torch.device) -> None:
    model, images = built(name).to(device), torch.randn(2, 3, 64, 64, device=device)
    graph = prunelab.analyze(model, images[:1], exact=True)
    kept = {group.name: list(range(0, group.size, 2)) for group in graph.groups}
    plan = graph.plan(kept=kept)
    full, pruned = copy.deepcopy(model), prunelab.apply(model, plan)
    assert all(tensor.device == device for tensor in (*pruned.parameters(), *pruned.buffers()))
    assert prunelab.check(full, pruned, plan, images) < 1e-6
    twin = candidate(full, plan)
    with torch.no_grad():
        torch.testing.assert_close(twin(images), pruned(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050"])
def test_the_structure_is_that_found_on_the_cpu(name: str, device: torch.device) -> None:
    model, image = built(name), torch.randn(1, 3, 64, 64)
    here = prunelab.analyze(model, image)
    there = prunelab.analyze(model.to(device), image.to(device))
    assert [(group.name, group.size, group.level) for group in here.groups] == [
        (group.name, group.size, group.level) for group in there.groups
    ]
    assert here.cost.flops() == there.cost.flops()


def test_a_network_saved_from_the_gpu_loads_on_the_cpu(tmp_path: Path, device: torch.device) -> None:
    model = prunelab.models.build("cifar_resnet20", num_classes=10, in_chans=3, image_size=(32, 32))
    model.eval().to(device)
    images = torch.randn(2, 3, 32, 32)
    graph = prunelab.analyze(model, images[:1])
    prunelab.apply(model, graph.plan(kept={group.name: [0, 1, 2] for group in graph.groups}))
    prunelab.save(model, tmp_path)
    loaded = prunelab.load(tmp_path).eval()
    assert not any(parameter.is_cuda for parameter in loaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images.to(device)).cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    any(find_spec(package) is None for package in EXPORTERS),
    reason=f"the export to ONNX needs more packages: pip install {' '.join(EXPORTERS)}",
)
def test_a_pruned_network_on_the_gpu_is_exported_to_onnx(tmp_path: Path, device: torch.device) -> None:
    import onnxruntime

    model, images = built("resnet18").to(device), torch.randn(2, 3, 64, 64)
    graph = prunelab.analyze(model, images[:1].to(device))
    kept = {group.name: list(range(0, group.size, 2)) for group in graph.groups}
    prunelab.apply(model, graph.plan(kept=kept))
    path = tmp_path / "pruned.onnx"
    torch.onnx.export(model, (images.to(device),), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = model(images.to(device)).cpu()
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-3)
