"""Settings are accepted under their former names, with a warning."""

from __future__ import annotations

import logging

import pytest
from omegaconf import OmegaConf

from prunelab.cli.again import changed
from prunelab.cli.config import configure
from prunelab.cli.former_names import _warn, with_former_names, without_former_names
from prunelab.records import run_key

BUDGET = "budget.flops=0.5"


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    _warn.cache_clear()
    monkeypatch.setattr(logging.getLogger("prunelab"), "propagate", True)
    return caplog


def test_on_the_command_line(warnings: pytest.LogCaptureFixture) -> None:
    former = configure([BUDGET, "whole=[conv1]", "budget.floor=0.2"])
    assert former == configure([BUDGET, "exclude=[conv1]", "budget.min_keep=0.2"])
    assert former["method"]["exclude"] == ["conv1"]
    assert former["method"]["min_keep"] == 0.2
    assert [record.getMessage().partition(".")[0] for record in warnings.records] == [
        "The setting whole is now called exclude",
        "The setting budget",
    ]


def test_in_a_file_of_a_user(warnings: pytest.LogCaptureFixture) -> None:
    """A method with the former names: it refers to them, and sets one."""
    composed = OmegaConf.create(
        {
            "exclude": [],
            "whole": ["conv1"],
            "budget": {"min_keep": 0.1, "floor": 0.2},
            "method": {"_target_": "prunelab.methods.LFPC", "whole": "${whole}", "floor": "${budget.floor}"},
        }
    )
    OmegaConf.set_struct(composed, True)
    resolved = OmegaConf.to_container(with_former_names(composed), resolve=True)
    assert isinstance(resolved, dict)
    assert without_former_names(resolved) == {
        "exclude": ["conv1"],
        "budget": {"min_keep": 0.2},
        "method": {"_target_": "prunelab.methods.LFPC", "exclude": ["conv1"], "min_keep": 0.2},
    }
    assert len(warnings.records) == 4
    assert "whole" in composed  # it is a copy that was changed


def test_when_a_recorded_run_is_made_again() -> None:
    config = configure([BUDGET])
    assert changed(config, ["budget.floor=0.3"])["method"]["min_keep"] == 0.3
    assert run_key(changed(config, ["whole=[conv1]"])) == run_key(configure([BUDGET, "exclude=[conv1]"]))
