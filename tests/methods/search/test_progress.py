"""Progress: the messages and rows of a search, by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prunelab.methods.search.progress import Progress
from prunelab.methods.search.widths import Candidate, WidthSpace
from prunelab.records.evaluations import Evaluation

SPACE = cast(WidthSpace, SimpleNamespace(scale=10.0, cost=lambda candidate: candidate.widths[0]))


@pytest.fixture
def made() -> Callable[..., Any]:
    """(planned, times) -> a progress whose clock shows these times, and the calls of its report."""

    def make(planned: int | None, *times: float) -> tuple[Progress, list[Any]]:
        calls: list[Any] = []
        clock = iter(times)
        progress = Progress(
            "Search",
            SPACE,
            planned,
            lambda rows, earlier: calls.append((list(rows), earlier)),
            clock=lambda: next(clock),
        )
        return progress, calls

    return make


def history(*pairs: tuple[int, float]) -> dict[Candidate, float]:
    return {Candidate((width,)): score for width, score in pairs}


def test_rows_have_the_kept_fraction_and_the_best_score(made: Callable[..., Any]) -> None:
    progress, calls = made(None, *range(9))
    progress.evaluated(history((5, 0.3), (4, 0.2)))
    progress.evaluated(history((5, 0.3), (4, 0.2), (3, 0.4)))
    rows = [Evaluation(1, 0.5, 0.3, 0.3), Evaluation(2, 0.4, 0.2, 0.3), Evaluation(3, 0.3, 0.4, 0.4)]
    assert calls == [(rows[:2], 0), (rows, 2)]


def test_a_line_has_the_best_score_and_the_remaining_time(
    made: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress, _ = made(12, 0, 20, 20, 30, 30, 70, 70, 70)
    progress.evaluated(history((5, 0.3), (4, 0.2)))  # 10 s each, 10 left
    progress.evaluated(history((5, 0.3), (4, 0.2), (3, 0.1)))  # no better, no minute since the last line
    progress.evaluated(history((5, 0.3), (4, 0.2), (3, 0.1), (2, 0.4)))  # 17.5 s each, 8 left
    assert [record.getMessage() for record in caplog.records] == [
        "Search: best score 0.3 after 2 of at most 12 candidates, 2 min left.",
        "Search: best score 0.4 after 4 of at most 12 candidates, 2 min left.",
    ]


def test_evaluations_of_an_earlier_process_do_not_count_for_the_speed(
    made: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress, calls = made(4, 0, 5, 5, 5)
    progress.resumed(history((5, 0.3), (4, 0.2)))
    progress.evaluated(history((5, 0.3), (4, 0.2), (3, 0.4)))
    assert [record.getMessage() for record in caplog.records] == [
        "Search: resumed after 2 of at most 4 candidates, best score 0.3.",
        "Search: best score 0.4 after 3 of at most 4 candidates, 5 s left.",
    ]
    assert [earlier for _, earlier in calls] == [2, 2]
