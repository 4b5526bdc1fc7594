"""Pruned networks on disk: loading is bit-exact, damaged files raise errors, and nothing is executed."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.errors import UserError
from prunelab.models import build

WEIGHTS, PAGE = "model.safetensors", "plan.json"

# Name -> side of the images, arguments.
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "cifar_resnet20": (16, {}),
    "cifar_vgg16_bn": (32, {}),
    "cifar_mobilenetv2": (32, {}),
    "lenet5": (28, {"in_chans": 1}),
    "mobilenetv3_small_050": (32, {}),
    "test_convnext": (32, {}),
    "test_vit": (160, {}),
    "test_resnet": (32, {}),
    "test_efficientnet": (32, {}),
    "densenet121": (32, {"growth_rate": 8, "block_config": (2, 2, 2)}),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def thinned(model: nn.Module, images: Tensor) -> nn.Module:
    """``model`` without a third of its channels and, if it has any, every other block."""
    graph = prunelab.analyze(model, images)
    rng = np.random.default_rng(0)
    kept = {
        group.name: rng.choice(group.size, max(1, group.size * 2 // 3), replace=False).tolist()
        for group in graph.groups
    }
    return prunelab.apply(model, graph.plan(kept, [block.name for block in graph.blocks[::2]])).eval()


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loaded_network_is_bit_identical(tmp_path: Path, name: str) -> None:
    size, arguments = FAMILIES[name]
    images = torch.randn(2, arguments.get("in_chans", 3), size, size)
    model = thinned(build(name, 10, **arguments), images)
    again = prunelab.load(prunelab.save(model, tmp_path / "pruned"))
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(outputs(again, images), outputs(model, images))
    assert again.prunelab_plan == model.prunelab_plan
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    twice = prunelab.save(again, tmp_path / "again")
    assert (twice / PAGE).read_bytes() == (tmp_path / "pruned" / PAGE).read_bytes()


class Tied(nn.Module):
    """A network of the user's own: one convolution under two names, a transposed weight, an index buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.third = nn.Conv2d(8, 8, 3)
        self.third.weight = self.second.weight
        self.alias = self.second
        self.last = nn.Linear(8, 2)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last(F.relu(self.third(F.relu(self.alias(x)))).mean((2, 3)))


def test_tied_weights_of_a_foreign_network(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 12, 12)
    model = thinned(Tied(), images)
    assert model.second.weight.shape[1] < 8
    prunelab.save(model, tmp_path)
    with pytest.raises(UserError, match=r"prunelab\.load\(folder, model=\.\.\.\)"):
        prunelab.load(tmp_path)
    again = prunelab.load(tmp_path, model=Tied())
    assert again.third.weight is again.second.weight is again.alias.weight
    assert torch.equal(outputs(again, images), outputs(model, images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_number_format_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 16, 16)
    model = thinned(build("cifar_resnet20", 10), images).to(dtype)
    again = prunelab.load(prunelab.save(model, tmp_path))
    assert {value.dtype for value in again.parameters()} == {dtype}
    assert torch.equal(outputs(again, images.to(dtype)), outputs(model, images.to(dtype)))


def test_number_formats_may_be_mixed(tmp_path: Path) -> None:
    model = thinned(build("lenet5", 10, in_chans=1), torch.randn(1, 1, 28, 28))
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).bfloat16()
    again = prunelab.load(prunelab.save(model, tmp_path))
    assert [value.dtype for value in again.parameters()] == [value.dtype for value in model.parameters()]
    assert first.weight.dtype == torch.bfloat16


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The two files of a saved network."""
    folder = tmp_path_factory.mktemp("sound")
    prunelab.save(thinned(build("cifar_resnet20", 10), torch.randn(1, 3, 16, 16)), folder)
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, PAGE)}


class Bomb:
    """Exits when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a checkpoint was executed')",)


def rejected(folder: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prunelab.load(folder)


@pytest.mark.parametrize("name", [WEIGHTS, PAGE])
def test_a_missing_file(tmp_path: Path, sound: dict[str, bytes], name: str) -> None:
    rejected(tmp_path, {other: sound[other] for other in sound if other != name}, f"{name} cannot be read")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEIGHTS, lambda content: content[: len(content) // 2], "truncated, exchanged or edited"),
        (WEIGHTS, lambda content: b"", "truncated, exchanged or edited"),
        (WEIGHTS, lambda content: content[:-1] + bytes([content[-1] ^ 1]), "truncated, exchanged or edited"),
        (WEIGHTS, lambda content: pickle.dumps(Bomb()), "truncated, exchanged or edited"),
        (PAGE, lambda content: content[: len(content) // 2], "not readable JSON"),
        (PAGE, lambda content: b"", "not readable JSON"),
        (PAGE, lambda content: pickle.dumps(Bomb()), "not readable JSON"),
        (PAGE, lambda content: b"[" * 100_000, "not readable JSON"),
        (PAGE, lambda content: b"[]", "does not describe"),
        (PAGE, lambda content: content.replace(b'"schema": 2', b'"schema": 1'), "does not describe"),
        (PAGE, lambda content: content.replace(b"cifar_resnet20", b"cifar_resnet32"), "was edited"),
        (PAGE, lambda content: content.replace(b'"torch": "', b'"torch": "0'), "was edited"),
        (PAGE, lambda content: content.replace(b'"lists": [[', b'"lists": [[0, '), "was edited"),
    ],
)
def test_a_damaged_file(
    tmp_path: Path, sound: dict[str, bytes], name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    damaged = change(sound[name])
    assert damaged != sound[name]
    rejected(tmp_path, {**sound, name: damaged}, message)


def test_exchanged_files(tmp_path: Path, sound: dict[str, bytes]) -> None:
    """Two networks of the same shapes: the weights of one do not match the plan of the other."""
    model = thinned(build("cifar_resnet20", 10), torch.randn(1, 3, 16, 16))
    other = prunelab.save(model, tmp_path / "other") / WEIGHTS
    rejected(tmp_path, {**sound, WEIGHTS: other.read_bytes()}, "truncated, exchanged or edited")


def forged(files: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> dict[str, bytes]:
    """A changed page with a new digest."""
    page = json.loads(files[PAGE])
    change(page)
    return {**files, PAGE: _sealed(page)}


def _sealed(page: dict[str, Any]) -> bytes:
    page.pop("page_sha256")
    page["page_sha256"] = hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()
    return json.dumps(page).encode()


def first_list(page: dict[str, Any]) -> list[int]:
    return min((found for found in page["plan"]["lists"] if len(found) > 3), key=len)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "index out of range": (lambda page: first_list(page).__setitem__(-1, 10**9), "is to be kept|channels"),
    "index repeated": (
        lambda page: first_list(page).__setitem__(1, first_list(page)[0]),
        "repeats an index",
    ),
    "index negative": (lambda page: first_list(page).__setitem__(0, -1), "not a count"),
    "list empty": (lambda page: first_list(page).clear(), "is empty"),
    "one channel more": (
        lambda page: (
            page["plan"]["cuts"][0].__setitem__(3, len(page["plan"]["lists"]))
            or page["plan"]["lists"].append([0])
        ),
        "of another shape",
    ),
    "cut twice": (lambda page: page["plan"]["cuts"].append(page["plan"]["cuts"][0]), "cut twice"),
    "unknown tensor": (
        lambda page: page["plan"]["cuts"][0].__setitem__(0, "nowhere.weight"),
        "which this network lacks",
    ),
    "absurd size": (lambda page: page["plan"]["cuts"][0].__setitem__(2, 10**15), "made for another network"),
    "attribute of no module": (
        lambda page: page["plan"]["attributes"].update({"nowhere": {"width": 3}}),
        "which this network lacks",
    ),
    "method replaced": (
        lambda page: page["plan"]["attributes"].update({"layer1": {"forward": 3}}),
        "it sets 'forward'",
    ),
    "stride": (
        lambda page: page["plan"]["attributes"].update({"layer2.0.conv1": {"stride[0]": 1}}),
        r"it sets 'stride\[0\]' of 'layer2.0.conv1' from 2 to 1",
    ),
    "values of a weight": (
        lambda page: page["plan"]["values"].update({"linear.weight": [0]}),
        "not an index buffer",
    ),
    "block that does not exist": (
        lambda page: (
            page["plan"]["replaced"].update({"nowhere": "identity"}),
            page["plan"]["dropped_blocks"].append("nowhere"),
        ),
        "which this network lacks",
    ),
    "code for a block": (
        lambda page: page["plan"]["replaced"].update({"layer1.0": "__import__('os')"}),
        "must be one of identity",
    ),
    "block that was not dropped": (
        lambda page: page["plan"]["replaced"].update({"layer1": "identity"}),
        "not among the dropped",
    ),
    "dropped blocks in one word": (
        lambda page: page["plan"].update(dropped_blocks="layer1.0"),
        "not a list of names",
    ),
    "builder": (lambda page: page["origin"].update(builder="os.system"), "builder of networks"),
    "download": (
        lambda page: page["origin"].update(name="hf-hub:somebody/something"),
        "hf-hub:somebody/something",
    ),
    "weights from a file": (
        lambda page: page["origin"]["arguments"].update(checkpoint_path="evil.pth"),
        "checkpoint_path",
    ),
    "another network": (
        lambda page: page["origin"].update(name="cifar_resnet32"),
        "does not fit the network|made for another network",
    ),
    "plan of another kind": (lambda page: page.update(plan=[1, 2]), "not a pruning plan"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_plan(tmp_path: Path, sound: dict[str, bytes], kind: str) -> None:
    change, message = FORGERIES[kind]
    rejected(tmp_path, forged(sound, change), message)


def _pickled(weights: dict[str, Tensor]) -> bytes:
    return pickle.dumps(Bomb())


def _reshaped(weights: dict[str, Tensor]) -> bytes:
    name = next(name for name, weight in weights.items() if weight.dim())
    return safetensors.torch.save({**weights, name: weights[name][:-1].clone()})


def _truncated(weights: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save(weights)[:-8]


def _missing(weights: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save(dict(list(weights.items())[1:]))


def _unknown(weights: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({**weights, "more": torch.zeros(1)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_pickled, "not a safetensors file"),
        (_truncated, "not a safetensors file"),
        (_reshaped, "1 of another shape"),
        (_missing, "1 tensors are missing"),
        (_unknown, "1 unknown"),
    ],
)
def test_forged_weights(
    tmp_path: Path, sound: dict[str, bytes], make: Callable[[dict[str, Tensor]], bytes], message: str
) -> None:
    content = make(safetensors.torch.load(sound[WEIGHTS]))
    digest = hashlib.sha256(content).hexdigest()
    files = forged({**sound, WEIGHTS: content}, lambda page: page.update(weights_sha256=digest))
    rejected(tmp_path, files, message)


def test_a_rejected_plan_does_not_change_the_network(tmp_path: Path) -> None:
    model = thinned(Tied(), torch.randn(1, 3, 12, 12))
    prunelab.save(model, tmp_path)
    other = nn.Sequential(nn.Conv2d(3, 8, 3))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UserError, match="made for another network"):
        prunelab.load(tmp_path, model=other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
