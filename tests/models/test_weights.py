"""A weight file is loaded completely, or not at all with an error that lists what does not fit."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prunelab.errors import UserError
from prunelab.models import CifarResNet, load_weights

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Weights as published: no channel maps of shortcuts, no step counters of norms."""
    state = CifarResNet(1).state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if tensor.is_floating_point()}


def assert_loaded(model: CifarResNet, weights: Weights) -> None:
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def test_safetensors(weights: Weights, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "net.safetensors")
    model = CifarResNet(1)
    load_weights(model, tmp_path / "net.safetensors")
    assert_loaded(model, weights)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "model.", "net.encoder.", "module.backbone._orig_mod."]
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "params_ema"])
def test_wrapped_and_prefixed(weights: Weights, tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    prefixed = {prefix + name: tensor for name, tensor in weights.items()}
    content = prefixed if wrapper is None else {"epoch": 3, wrapper: prefixed, "best": 0.9}
    torch.save(content, tmp_path / "net.pth")
    model = CifarResNet(1)
    load_weights(model, str(tmp_path / "net.pth"))
    assert_loaded(model, weights)


def message_of(content: Any, folder: Path, model: CifarResNet | None = None) -> str:
    """The message for a file that must not change the model."""
    torch.save(content, folder / "net.pth")
    model = model or CifarResNet(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, folder / "net.pth")
    assert_loaded(model, before)
    return str(caught.value)


def test_a_deeper_network_has_unexpected_weights(tmp_path: Path) -> None:
    message = message_of(CifarResNet(2).state_dict(), tmp_path)
    # 3 more blocks of 2 convolutions (1 tensor each) and 2 norms (5 each)
    assert "do not fit this CifarResNet: 36 unexpected (layer1.1.conv1.weight, " in message
    assert "missing" not in message
    assert "Nothing was loaded" in message


def test_a_shallower_network_misses_weights(weights: Weights, tmp_path: Path) -> None:
    message = message_of(weights, tmp_path, CifarResNet(2))
    assert "30 missing (layer1.1.conv1.weight, layer1.1.bn1.weight, layer1.1.bn1.bias, ...)" in message


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    message = message_of(CifarResNet(1, num_classes=100).state_dict(), tmp_path)
    expected = "2 of wrong shape (linear.weight is (100, 64), not (10, 64), linear.bias is (100,), not (10,))"
    assert expected in message


def test_renamed_weights_are_missing_and_unexpected(weights: Weights, tmp_path: Path) -> None:
    renamed = {name.replace("linear", "fc"): tensor for name, tensor in weights.items()}
    message = message_of(renamed, tmp_path)
    assert "2 missing (linear.weight, linear.bias); 2 unexpected (fc.weight, fc.bias)" in message


def test_a_file_without_weights_is_an_error(weights: Weights, tmp_path: Path) -> None:
    assert "does not contain named weights, but list" in message_of([1, 2], tmp_path)
    assert "does not contain named weights, but dict" in message_of({}, tmp_path)
    assert "contains more than weights: epoch" in message_of({**weights, "epoch": 3}, tmp_path)
    assert "(prunelab.models.cifar_resnet.CifarResNet) besides weights" in message_of(
        CifarResNet(1), tmp_path
    )


@pytest.mark.parametrize("name", ["net.pth.tar", "net.bin", "net.th", "net.pt", "net.ckpt"])
def test_usual_names_of_checkpoints(weights: Weights, tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": weights, "best_acc": torch.tensor(0.9)}, tmp_path / name)
    model = CifarResNet(1)
    load_weights(model, tmp_path / name)
    assert_loaded(model, weights)


def test_a_checkpoint_of_timm(weights: Weights, tmp_path: Path) -> None:
    """It contains the arguments of timm's train script as an argparse.Namespace."""
    arguments = Namespace(model="resnet20", lr=0.1, mean=[0.5], mixup=None)
    checkpoint = {"epoch": 3, "arch": "resnet20", "state_dict": weights, "optimizer": {}, "args": arguments}
    torch.save(checkpoint, tmp_path / "model_best.pth.tar")
    model = CifarResNet(1)
    load_weights(model, tmp_path / "model_best.pth.tar")
    assert_loaded(model, weights)


def test_a_namespace_cannot_run_code(weights: Weights, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    checkpoint = {"state_dict": weights, "args": Namespace(lr=Code(ran))}
    assert "could run code and are not loaded" in message_of(checkpoint, tmp_path)
    assert not ran.exists()


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_integers_are_not_taken_for_weights(weights: Weights, tmp_path: Path) -> None:
    quantised = {name: tensor.to(torch.int8) for name, tensor in weights.items()}
    message = message_of(quantised, tmp_path)
    assert f"{len(weights)} of wrong type (conv1.weight is torch.int8, not torch.float32, " in message


def test_half_precision_is_converted(weights: Weights, tmp_path: Path) -> None:
    torch.save({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "net.pth")
    model = CifarResNet(1)
    load_weights(model, tmp_path / "net.pth")
    assert model.conv1.weight.dtype == torch.float32
    assert_loaded(model, {name: tensor.half().float() for name, tensor in weights.items()})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"not a weight file")
    with pytest.raises(UserError, match="net"):
        load_weights(CifarResNet(1), path)


def test_a_missing_or_unknown_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no weight file .*net\.pth"):
        load_weights(CifarResNet(1), tmp_path / "net.pth")
    (tmp_path / "net.h5").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"must end in \.safetensors or \.pth, \.pt, \.ckpt, \.bin, \.th or \.pth\.tar"
    ):
        load_weights(CifarResNet(1), tmp_path / "net.h5")


def test_of_several_sets_of_weights_none_is_chosen(weights: Weights, tmp_path: Path) -> None:
    assert "several sets of weights: first, second" in message_of(
        {"first": weights, "second": weights}, tmp_path
    )


def test_the_python_object_in_a_checkpoint_is_named(weights: Weights, tmp_path: Path) -> None:
    assert "(pathlib.PosixPath)" in message_of({"state_dict": weights, "path": Path("a")}, tmp_path)
