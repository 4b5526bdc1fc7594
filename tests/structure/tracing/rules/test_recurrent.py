"""Recurrent layers: their hidden width is one group, which the gates, the next layer and the first state follow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab.structure.surgery.sliced import SlicedNetwork
from prunelab.structure.tracing.calls import Calls
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.rules import rule_for

SERIES = torch.linspace(-1, 1, 2 * 5 * 6).reshape(2, 5, 6).sin()


class Reader(nn.Module):
    """A linear layer, a recurrent layer and a linear layer."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(6, 8), layer, nn.Linear(width, 4)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(series).relu())[0])


class Stepwise(nn.Module):
    """A cell that runs once for each step; it makes its first state itself, or the network does."""

    def __init__(
        self, cell: nn.Module, state: Callable[[Any, Tensor], Any] = lambda network, series: None
    ) -> None:
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(6, 8), cell, nn.Linear(10, 4)
        self.state, self.hidden = state, 10

    def forward(self, series: Tensor) -> Tensor:
        series, state = self.stem(series).relu(), self.state(self, series)
        for step in series.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "two_both_ways"])
def test_a_hidden_width(exact: Callable[..., Any], kind: type[nn.RNNBase], more: dict[str, Any]) -> None:
    layer = kind(8, 10, batch_first=True, **more)
    pruning = exact(Reader(layer, 20 if more else 10), SERIES)
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"stem": 8, "layer": 10}
    assert pruning.model.layer.hidden_size == len(pruning.plan.kept["layer"]) < 10


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(exact: Callable[..., Any], kind: type[nn.RNNCellBase]) -> None:
    pruning = exact(Stepwise(kind(8, 10)), SERIES)
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"stem": 8, "cell": 10}


def test_a_first_state_of_the_network(exact: Callable[..., Any]) -> None:
    def zeros(network: Any, series: Tensor) -> tuple[Tensor, Tensor]:
        state = series.new_zeros(len(series), network.hidden)
        return state, torch.zeros_like(state)

    pruning = exact(Stepwise(nn.LSTMCell(8, 10), zeros), SERIES)
    assert pruning.model.hidden == len(pruning.plan.kept["cell"]) < 10


def test_a_first_state_of_constant_width_is_frozen(exact: Callable[..., Any]) -> None:
    pruning = exact(
        Stepwise(nn.GRUCell(8, 10), lambda network, series: series.new_zeros(len(series), 10)), SERIES
    )
    assert set(pruning.groups) == {"stem"}
    assert "new_zeros has a constant size" in pruning.frozen["cell"]


def test_a_learned_first_state(exact: Callable[..., Any], network: Callable[..., nn.Module]) -> None:
    def forward(self: Any, series: Tensor) -> Tensor:
        state = self.first.expand(1, len(series), -1).contiguous()
        return self.head(self.layer(series, state)[1][0])

    first = nn.Parameter(torch.randn(1, 1, 10))
    made = network(forward, first=first, layer=nn.GRU(6, 10, batch_first=True), head=nn.Linear(10, 4))
    assert {name: size for name, (_, size) in exact(made, SERIES).groups.items()} == {"layer": 10}


def test_projections_are_frozen(exact: Callable[..., Any]) -> None:
    pruning = exact(Reader(nn.LSTM(8, 10, proj_size=6, batch_first=True), 6), SERIES)
    assert set(pruning.groups) == {"stem"}
    assert all("layer.proj_size must stay below hidden_size" in reason for reason in pruning.frozen.values())


def test_a_network_that_cannot_run_on_the_meta_device(network: Callable[..., nn.Module]) -> None:
    """On a processor PyTorch may run an LSTM as one operator of oneDNN."""

    def forward(self: Any, series: Tensor) -> Tensor:
        return self.head(self.layer(series * (1.0 + float(series.sum() > 0)))[0])

    made = network(forward, layer=nn.LSTM(6, 10, batch_first=True), head=nn.Linear(10, 4)).eval()
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    plan = prunelab.analyze(made, SERIES).plan({"layer": range(6)})
    assert prunelab.check(made, prunelab.apply(copy.deepcopy(made), plan), plan, SERIES) < 1e-9
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before


@pytest.mark.parametrize(("kind", "gates", "states"), [("lstm", 4, 2), ("gru", 3, 1)])
def test_the_fused_cells_of_gpus(kind: str, gates: int, states: int) -> None:
    """Each gate has a part for each channel of the state. (The operators run on a GPU only.)"""
    wide, narrow = torch.zeros(2, gates * 5, device="meta"), torch.zeros(2, 5, device="meta")
    tensors = {"input": wide, "hidden": wide.clone(), "state": narrow, "bias": wide[0].clone()}
    ledger = Ledger(tensors.items(), tensors.__getitem__, Calls(lambda call, out: None))
    given = tuple(ledger.marked(tensor) for tensor in tensors.values())
    operator = getattr(torch.ops.aten, f"_thnn_fused_{kind}_cell").default
    outputs = [*(narrow.clone() for _ in range(states)), wide.clone()]
    made = rule_for(operator)(ledger, f"_thnn_fused_{kind}_cell", tuple(tensors.values()), {}, given, outputs)
    label = ledger.ids.components().label
    channels = label[given[2].dims[1]].tolist()
    assert len(set(channels)) == 5
    for marked in (given[0], given[1]):
        assert label[marked.dims[1]].tolist() == channels * gates
    assert label[given[3].dims[0]].tolist() == channels * gates
    assert [label[state.dims[1]].tolist() for state in made[:states]] == [channels] * states
    assert not made[states].followed


def test_a_pruned_lstm_is_saved_and_sliced(tmp_path: Path) -> None:
    network = Reader(nn.LSTM(8, 10, num_layers=2, batch_first=True), 10).eval()
    graph = prunelab.analyze(network, SERIES)
    pruned = prunelab.apply(copy.deepcopy(network), graph.plan({"layer": range(6), "stem": range(3)}))
    prunelab.save(pruned, tmp_path / "pruned")
    loaded = prunelab.load(tmp_path / "pruned", Reader(nn.LSTM(8, 10, num_layers=2, batch_first=True), 10))
    with torch.no_grad():
        expected = pruned(SERIES)
        torch.testing.assert_close(loaded.eval()(SERIES), expected)
        with SlicedNetwork(network, graph).at({"layer": 6, "stem": 3}):
            torch.testing.assert_close(network(SERIES), expected)
