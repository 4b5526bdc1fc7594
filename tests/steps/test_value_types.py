"""A value of the wrong type is an error that names its key, in every choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.steps.test_setup import CHOICES, NEEDED

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.steps import Setup
from prunelab.steps.setup import GROUPS
from prunelab.steps.value_types import check_kinds

OWN = [choice for choice in CHOICES if choice.partition("=")[0] in GROUPS]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exact=no"], "exact must be true or false, not 'no'."),
        (["cardinality=1"], "cardinality must be true or false, not 1."),
        (["seed=one"], "seed must be a whole number, not 'one'."),
        (["levels=filter"], "levels='filter' is one word: write a list, such as levels=[filter]."),
        (["seed=-1"], "seed must be a number from 0 to 4294967295, not -1."),
        (["seed=4294967296"], "seed must be a number from 0 to 4294967295, not 4294967296."),
        (["exclude=[7]"], "exclude must be a list of names, not [7]."),
        (["budget.min_keep=low"], "budget.min_keep must be a number, not 'low'."),
        (["budget.divisor=null"], "budget.divisor must be a whole number, not null."),
        (["sweep.retry_failed=yes"], "sweep.retry_failed must be true or false, not 'yes'."),
        (["recipe.calibration_images=8.5"], "recipe.calibration_images must be a whole number, not 8.5."),
        (["recipe.training.lr=fast"], "recipe.training.lr must be a number, not 'fast'."),
        (["recipe.training.nesterov=no"], "recipe.training.nesterov must be true or false, not 'no'."),
        (["baseline.training.milestones=3"], "baseline.training.milestones must be a list of numbers, not 3."),
        (["method=sfp", "method.rate=half"], "method.rate must be a number or null, not 'half'."),
        (["method=entropy", "method.criterion.bins=1.5"], "method.criterion.bins must be a whole number, not 1.5."),
        (["method=l1", "method.criterion=fpgm"], "method.criterion must be a group of keys, not 'fpgm'."),
        (["+method.criterion.reducton=max"], "no key method.criterion.reducton. Did you mean 'reduction'?"),
        (["method=l1", "~method.criterion"], "method.criterion is missing, and it has no default: set"),
        (["~model.name"], "leave that word out."),
        (["model.arguments=null"], "model.arguments must be a group of keys, not null."),
        (["trainer.deterministic=always"], "trainer.deterministic must be true or false or 'warn', not 'always'."),
    ],
)  # fmt: skip
def test_the_message_names_the_typed_key(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        Setup.of(configure(["budget.flops=0.5", *words]))
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("choice", OWN)
def test_every_key_of_every_choice_has_a_type(choice: str) -> None:
    group = choice.partition("=")[0]
    settings = configure(["budget.flops=0.5", choice, *NEEDED.get(choice, [])])[group]
    if group == "method":
        del settings["module"]  # imported before the method is made
    check_kinds(settings, group)
    for owner, key, value in _values(settings):
        is_number = isinstance(value, int | float) and key != "devices"  # which may be auto
        for wrong in [{"banana": 1}, *(["banana"] if is_number else [])]:
            owner[key] = wrong
            with pytest.raises(UserError, match=rf"^{group}\.[\w.\[\]]*{key}\b"):
                check_kinds(settings, group)
        owner[key] = value


def _values(settings: Any) -> Iterator[tuple[Any, str, Any]]:
    """Each value with its key and its container, also nested ones."""
    if isinstance(settings, list):
        for each in settings:
            yield from _values(each)
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if not key.startswith("_") and key != "training":  # its annotation is only for type checkers
                yield settings, key, value
            yield from _values(value)


def test_numbers_may_be_whole_and_lists_empty() -> None:
    settings = configure(
        ["budget.flops=1", "recipe.training.lr=1", "recipe.training.milestones=[]", "exclude=[]"]
    )
    assert Setup.of(settings).budget.keep == 1
