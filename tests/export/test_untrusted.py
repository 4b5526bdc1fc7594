"""Untrusted saved networks: no code is run, and no memory is allocated for networks that do not fit."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

import prunelab
from prunelab.errors import UserError
from prunelab.models import build

WEIGHTS, PAGE = "model.safetensors", "plan.json"
MEMORY = 3 * 2**30
"""Bytes of address space beyond what the imports need."""

LOAD = """
import resource, sys, prunelab, prunelab.export
from prunelab.errors import UserError
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]),) * 2)
for folder in sys.argv[2:]:
    try:
        prunelab.load(folder)
        print("loaded")
    except UserError as error:
        print(error)
"""


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change plan.json and compute its digest again."""
    page = json.loads((folder / PAGE).read_text())
    change(page)
    page.pop("page_sha256")
    page["page_sha256"] = hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()
    (folder / PAGE).write_text(json.dumps(page))


def exchange(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Exchange the weights, with the digest in plan.json."""
    content = safetensors.torch.save(change(safetensors.torch.load_file(folder / WEIGHTS)))
    (folder / WEIGHTS).write_bytes(content)
    rewrite(folder, lambda page: page.update(weights_sha256=hashlib.sha256(content).hexdigest()))


HUGE: list[tuple[str, dict[str, Any], str]] = [
    ("test_vit", {"depth": 100_000}, "depth=100000 among the arguments of test_vit"),
    ("test_vit", {"depth": 4_000}, "more than 10000 tensors"),
    ("test_vit", {"mlp_ratio": 1e7}, "more than 268435456 elements"),
    ("test_vit", {"img_size": 4_096, "patch_size": 1}, "more than 268435456 elements"),
    ("test_resnet", {"layers": [1, 1, 1, 10**9]}, "layers[3]=1000000000 among the arguments"),
    ("test_resnet", {"layers": [2_000, 1, 1, 1]}, "more than 10000 tensors"),
    ("test_resnet", {"channels": [1, 1, 1, 4_000]}, "does not fit the network"),
    ("test_resnet", {"output_stride": list(range(5_000))}, "len(output_stride)=5000"),
]


@pytest.mark.slow
def test_descriptions_of_huge_networks_are_errors_in_little_memory(tmp_path: Path) -> None:
    folders = [str(tmp_path / str(number)) for number in range(len(HUGE))]
    for folder, (name, arguments, _) in zip(folders, HUGE, strict=True):
        prunelab.save(build(name, 10), folder)
        rewrite(Path(folder), lambda page, more=arguments: page["origin"]["arguments"].update(more))

    command = [sys.executable, "-c", LOAD, str(MEMORY), *folders]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert loaded.returncode == 0, loaded.stderr
    for said, (_, _, message) in zip(loaded.stdout.splitlines(), HUGE, strict=True):
        assert message in said


def test_nothing_is_built_for_weights_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose shapes differ from the header is built only on the meta device."""
    prunelab.save(build("lenet5", 10, in_chans=1), tmp_path)
    rewrite(tmp_path, lambda page: page["origin"]["arguments"].update(num_classes=4000))
    devices = set()
    register = nn.Module.register_parameter

    def registering(self: nn.Module, name: str, value: Tensor | None) -> None:
        if value is not None:
            devices.add(value.device.type)
        register(self, name, value)

    monkeypatch.setattr(nn.Module, "register_parameter", registering)
    with pytest.raises(UserError, match="of another shape"):
        prunelab.load(tmp_path)
    assert devices == {"meta"}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_integers_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    prunelab.save(build("lenet5", 10, in_chans=1), tmp_path)
    exchange(tmp_path, lambda weights: {name: value.to(dtype) for name, value in weights.items()})
    with pytest.raises(UserError, match=f"holds {str(dtype)[6:]}, the network's is float32"):
        prunelab.load(tmp_path)
    with pytest.raises(UserError, match=f"holds {str(dtype)[6:]}, the network's is float32"):
        prunelab.load(tmp_path, model=build("lenet5", 10, in_chans=1))


@pytest.mark.parametrize("name", ["mnasnet0_5", "googlenet"])
def test_torchvision_networks_with_versioned_state_can_be_loaded(tmp_path: Path, name: str) -> None:
    arguments = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=3, **arguments)
    again = prunelab.load(
        prunelab.save(network, tmp_path),
        model=torchvision.models.get_model(name, weights=None, num_classes=3, **arguments),
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), network.eval()(images))


@pytest.mark.parametrize("form, ranks", [("channel", [10**9]), ("tucker", [50, 50]), ("cp", [10**6])])
def test_factorised_layers_are_smaller_than_the_layers_they_replace(
    tmp_path: Path, form: str, ranks: list[int]
) -> None:
    prunelab.save(build("cifar_resnet20", 10), tmp_path)

    def grow(page: dict[str, Any]) -> None:
        steps = [page["plan"], {"factorised": [["layer1.0.conv1", form, ranks]]}]
        page["plan"] = {"version": 2, "steps": steps}

    rewrite(tmp_path, grow)
    with pytest.raises(UserError, match="not smaller than the layer itself"):
        prunelab.load(tmp_path)


def test_a_key_may_occur_once(tmp_path: Path) -> None:
    prunelab.save(build("lenet5", 10, in_chans=1), tmp_path)
    text = (tmp_path / PAGE).read_text()
    (tmp_path / PAGE).write_text(text.replace('{"schema": 2,', '{"schema": 2, "origin": null,'))
    with pytest.raises(UserError, match="'origin' occurs twice"):
        prunelab.load(tmp_path)


def test_a_page_larger_than_any_plan_is_not_read(tmp_path: Path) -> None:
    prunelab.save(build("lenet5", 10, in_chans=1), tmp_path)
    with (tmp_path / PAGE).open("wb") as page:
        page.truncate(2**40)  # a sparse file
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"plan\.json is larger than"):
        prunelab.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
