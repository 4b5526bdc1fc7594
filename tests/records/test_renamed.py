"""Former names of settings and classes are understood."""

from __future__ import annotations

import pytest

from prunelab.records.renamed import renamed_words, upgraded


def test_a_recorded_configuration_is_read_in_present_names() -> None:
    former = {
        "whole": ["conv1"],
        "budget": {"flops": 0.5, "floor": 0.2},
        "method": {
            "_target_": "prunelab.methods.ImportancePruning",
            "whole": ["conv1"],
            "floor": 0.2,
            "criterion": {"_target_": "mine.Mine", "floor": 3},
        },
        "recipe": {
            "_target_": "prunelab.recovery.OneShot",
            "training": {"_target_": "prunelab.models.Training"},
        },
        "trainer": {"_target_": "prunelab.recovery.Machine"},
        "logger": {"_target_": "prunelab.logging.CsvLogger"},
    }
    assert upgraded(former) == {
        "exclude": ["conv1"],
        "budget": {"flops": 0.5, "min_keep": 0.2},
        "method": {
            "_target_": "prunelab.methods.ImportanceMethod",
            "exclude": ["conv1"],
            "min_keep": 0.2,
            "criterion": {"_target_": "mine.Mine", "floor": 3},
        },
        "recipe": {
            "_target_": "prunelab.recipes.OneShot",
            "training": {"_target_": "prunelab.training.Training"},
        },
        "trainer": {"_target_": "prunelab.training.Machine"},
        "logger": {"_target_": "prunelab.tracking.CsvLogger"},
    }
    assert former["whole"] == ["conv1"]


def test_a_user_method_keeps_a_setting_that_is_called_like_a_former_one() -> None:
    config = {"method": {"_target_": "mine.Method", "floor": 3}}
    assert upgraded(config) == config


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("whole=[conv1]", "exclude=[conv1]"),
        ("+budget.floor=0.2", "+budget.min_keep=0.2"),
        ("method.whole=[a]", "method.exclude=[a]"),
        ("++method.floor=0", "++method.min_keep=0"),
    ],
)
def test_words_are_renamed_with_a_warning(former: str, present: str) -> None:
    words, warnings = renamed_words(["method=l1", former])
    assert words == ["method=l1", present]
    (warning,) = warnings
    assert former.lstrip("+").partition("=")[0] in warning
    assert present.lstrip("+").partition("=")[0] in warning
