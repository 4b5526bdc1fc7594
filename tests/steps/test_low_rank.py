"""Ranks that were chosen by measurement are stored, so that a resumed run has the same network."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prunelab.factorisation.rank_choice import RankChoice
from prunelab.records.atomic import write_atomically
from prunelab.records.latency import LatencyRound, LatencySummary, Spread
from prunelab.steps.low_rank import store_ranks, stored_ranks
from prunelab.structure.low_rank import Factors

SPREAD = Spread(1.0, 1.5, 2.0, 2.5)
FOUND = LatencySummary(
    0.7, 0.6, 0.65, 11, SPREAD, SPREAD, (LatencyRound(0.7, 0.6, 0.65),), {"threads": 1}, {"chip": "x"}
)


@pytest.mark.parametrize("layers", [{"a.b": Factors("spatial", (8,)), "fc": Factors("tucker", (8, 16))}, {}])
def test_stored_ranks_are_those_of_the_same_weights(layers: dict[str, Factors], tmp_path: Path) -> None:
    file = tmp_path / "rounds" / "low-rank.json"
    assert stored_ranks(file, "00ff") is None
    choice = RankChoice(layers, FOUND)
    store_ranks(choice, file, "00ff", write_atomically)
    assert stored_ranks(file, "00ff") == choice
    assert stored_ranks(file, "11ff") is None


def test_damaged_ranks_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "low-rank.json"
    store_ranks(RankChoice({"fc": Factors("channel", (8,))}, FOUND), file, "00ff", write_atomically)
    file.write_text(file.read_text().replace("[8]", "[9]"))
    with caplog.at_level(logging.WARNING, logger="prunelab"):
        assert stored_ranks(file, "00ff") is None
    assert "ranks are chosen again" in caplog.text and not file.exists()
