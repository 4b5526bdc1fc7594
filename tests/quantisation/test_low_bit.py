"""Weights of two bits and one bit: values by hand, gradients, packing, and files that hold packed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import prunelab
from prunelab.errors import UserError
from prunelab.export.header import Header
from prunelab.export.packing import checked_packed, pack, packed_state, unpack
from prunelab.quantisation.low_bit import begin_rounding, end_rounding, rounded_layers
from prunelab.structure.binarised import BinarisedConv2d, Straight

FILTERS = torch.tensor([[0.9, -0.2, 0.1, -0.8], [0.0, 0.0, 0.0, -2.0]])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 1, groups=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10), nn.Linear(10, 4),
    ).eval()  # fmt: skip


def images(number: int = 6) -> Tensor:
    return torch.randn(number, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_ternary_weights_by_hand() -> None:
    """Thresholds 0.7 * 0.5 = 0.35 and 0.7 * 0.5; scales (0.9 + 0.8) / 2 and 2."""
    from prunelab.quantisation.low_bit import ternary

    expected = [[0.85, 0, 0, -0.85], [0, 0, 0, -2]]
    assert ternary(FILTERS).tolist() == [pytest.approx(row) for row in expected]


def test_binary_weights_by_hand() -> None:
    from prunelab.quantisation.low_bit import binary

    assert binary(FILTERS).tolist() == [[0.5, -0.5, 0.5, -0.5], [0.5, 0.5, 0.5, -0.5]]


def test_a_binarised_convolution_by_hand() -> None:
    """Signs [[+, -], [+, -]] and weights 0.5 [[+, +], [+, -]] give 1; the mean size of the inputs is 2.5."""
    layer = nn.Conv2d(1, 1, 2)
    layer.weight.data = 0.5 * torch.tensor([[[[1.0, 1.0], [1.0, -1.0]]]])
    layer.bias.data.fill_(0.25)
    binarised = BinarisedConv2d(layer).eval()
    binarised.norm.eps = 0.0
    assert binarised(torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]])).item() == pytest.approx(2.5 * 1 + 0.25)


def test_the_gradient_passes_the_rounding_inside_the_limit() -> None:
    values = torch.tensor([0.5, -1.5], requires_grad=True)
    rounded = Straight.apply(values, torch.tensor([1.0, -1.0]), 1.0)
    (2 * rounded).sum().backward()
    assert rounded.tolist() == [1, -1] and values.grad.tolist() == [2, 0]


@pytest.mark.parametrize(("bits", "size"), [(1, 2), (2, 3)])
def test_packing_keeps_every_value_and_needs_few_bytes(bits: int, size: int) -> None:
    signs = torch.tensor([[1, -1, 1, 1, -1], [-1, -1, 1, -1, 1]]) * (torch.tensor([[1], [1]]))
    if bits == 2:
        signs[0, 2] = signs[1, 0] = 0
    weight = signs * torch.tensor([[0.3], [7.0]])
    codes, scale = pack(weight, bits)
    assert codes.numel() == size and torch.equal(unpack(codes, scale, bits, (2, 5)), weight)
    assert pack(weight + 0.1, bits) is None
    assert pack(torch.tensor([[0.0, 1.0]]), 1) is None


@pytest.mark.parametrize("name", ["ternary", "binary", "xnor"])
def test_a_rounded_network_is_trained_saved_packed_and_loaded(name: str, tmp_path: Path) -> None:
    rounded = begin_rounding(network(), name, images(1), [images(), images()])
    optimizer = torch.optim.SGD(rounded.train().parameters(), lr=0.1)
    before = rounded[2].parametrizations.weight.original.clone()
    nn.functional.cross_entropy(rounded(images()), torch.arange(6) % 4).backward()
    optimizer.step()
    assert not torch.equal(rounded[2].parametrizations.weight.original, before)
    ended = end_rounding(rounded).eval()
    layers = {"2", "4"} if name == "xnor" else {"2", "4", "8"}  # not the first and the last
    assert {each.removesuffix(".weight") for each in ended.prunelab_packed} == layers
    values = ended[2].weight[0].unique().tolist()
    assert len(values) == (3 if name == "ternary" else 2)

    folder = prunelab.save(ended, tmp_path / name)
    stored = load_file(folder / "model.safetensors")
    bits = 2 if name == "ternary" else 1
    assert stored["2.weight.codes"].numel() == 16 * 8 * 9 * bits / 8 and "2.weight" not in stored
    again = prunelab.load(folder, model=network())
    assert torch.equal(again(images()), ended(images()))
    assert again.prunelab_packed == ended.prunelab_packed
    assert type(again[2]) is (BinarisedConv2d if name == "xnor" else nn.Conv2d)


def test_a_weight_that_was_changed_is_stored_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    rounded = end_rounding(begin_rounding(network(), "binary", images(1)))
    rounded[2].weight.data[0, 0, 0, 0] += 1
    state, packed = packed_state(rounded)
    assert {*packed} == {"4.weight", "8.weight"} and torch.equal(state["2.weight"], rounded[2].weight)
    assert "2.weight has other values than its rounded ones" in caplog.text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"bits": 1, "shape": [16, 8, 900, 900]}, "the packed weight 2.weight has not the size"),
        ({"bits": 2, "shape": [16, 8, 3, 3]}, "the packed weight 2.weight has not the size"),
        ({"bits": 3, "shape": [16, 8, 3, 3]}, "description of the packed weight 2.weight is not valid"),
        ({"bits": 1, "shape": [-16, -8, 3, 3]}, "description of the packed weight 2.weight is not valid"),
        ([], "description of the packed weight 2.weight is not valid"),
    ],
)
def test_a_description_that_does_not_fit_is_an_error(raw: object, message: str, tmp_path: Path) -> None:
    folder = prunelab.save(end_rounding(begin_rounding(network(), "binary", images(1))), tmp_path / "saved")
    header = Header.read(folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        checked_packed({"2.weight": raw}, header)


def test_layers_that_stay_are_named_or_the_network_has_none_left() -> None:
    assert rounded_layers(network(), "binary", images(1), ["4"]) == ["2", "8"]
    with pytest.raises(UserError, match="'5' is not a convolution or linear layer"):
        rounded_layers(network(), "binary", images(1), ["5"])
    with pytest.raises(UserError, match="no layer between its first and its last one"):
        rounded_layers(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), "ternary", torch.zeros(1, 3))
