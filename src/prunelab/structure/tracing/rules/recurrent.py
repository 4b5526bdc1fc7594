"""Fused cells of recurrent layers, which PyTorch runs on a GPU (elsewhere they are matrix products and gates)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Marked
from prunelab.structure.tracing.rules.common import Rule, beside, statistics_end_here


def fused_cell(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``op(input gates, hidden gates, state, biases)``: every gate has a part for each channel of the state.

    Returns the new states and storage for the backward pass.
    """
    gates, state = inputs[:2] + inputs[3:], inputs[2]
    statistics_end_here(ledger, op, inputs)
    width = state.shape[-1]
    reason = f"{op} {reasons.UNKNOWN_INPUT}"
    joined = gates[0].dims[-1]
    for marked in gates[1:]:
        joined = ledger.tie(joined, marked.dims[-1], reason)
    for marked in inputs[3:]:
        ledger.trace.role(marked, 0, "bias")
    if joined is None:
        channels = state.dims[-1]
        ledger.ids.freeze(channels, reason)
    else:
        rows = joined.reshape(-1, width)
        ledger.ids.tie_rows(rows)
        channels = rows[0] if state.uniform else ledger.tie(rows[0], state.dims[-1], reason)
    states = len(outputs) - 1
    made = [Marked(tuple(out.shape), [None, channels]) for out in outputs[:states]]
    return [*made, *beside(outputs[states:])]


RULES: dict[str, Rule] = {
    "_thnn_fused_lstm_cell": fused_cell,
    "_thnn_fused_gru_cell": fused_cell,
}
