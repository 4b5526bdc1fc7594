from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prunelab.report import Statistic, aggregate, read_study

if TYPE_CHECKING:
    from conftest import StudyFolder
    from prunelab.report import Table


def table_of(study: StudyFolder) -> Table:
    (table,) = aggregate(read_study(study.path)).tables
    return table


def test_mean_and_sample_deviation_over_seeds(study: StudyFolder) -> None:
    for seed, top1 in enumerate((0.88, 0.90, 0.92)):
        study.finished("l1", seed, top1=top1)

    (row,) = table_of(study).rows

    assert row.seeds == (0, 1, 2)
    # Deviations from the mean of -2, 0 and 2 points: the squares sum to 8, over n - 1 is 4, its root 2.
    assert row.statistics["top1"] == Statistic(pytest.approx(0.90), pytest.approx(0.02), 3)
    assert row.statistics["top1_change"] == Statistic(pytest.approx(-0.05), pytest.approx(0.02), 3)
    assert row.statistics["flops"] == Statistic(40_000_000, 0, 3)
    assert row.statistics["flops_fraction"] == Statistic(0.5, 0, 3)


def test_one_seed_has_no_deviation(study: StudyFolder) -> None:
    study.finished("l1")

    (row,) = table_of(study).rows

    assert row.statistics["top1"] == Statistic(0.9, None, 1)


def test_every_number_is_read_from_its_place(study: StudyFolder) -> None:
    study.finished(
        "l1",
        baseline={
            "top1": 0.95,
            "top5": 0.99,
            "flops": 800,
            "macs": 300,
            "params": 50,
            "latency_ms": {"1": 3, "64": 90},
        },
        after_pruning={"top1": 0.25, "top5": 0.75},
        pruned={
            "top1": 0.875,
            "top5": 0.96,
            "flops": 200,
            "macs": 90,
            "params": 10,
            "latency_ms": {"1": 2, "64": 60},
        },
        best_epoch={
            "epoch": 7,
            "validation": {"top1": 0.9, "top5": None},
            "test": {"top1": 0.89, "top5": None},
        },
        timings={
            "baseline_s": 0,
            "score_s": 1.5,
            "recovery_s": 30.0,
            "evaluate_s": 2.0,
            "total_s": 34.0,
            "other_load": 0.25,
        },
        after_calibration=[
            {"step": "bias", "top1": 0.3, "top5": 0.8, "seconds": 1.0},
            {"step": "sequential", "top1": 0.6, "top5": 0.9, "seconds": 9.0},
        ],
    )

    (row,) = table_of(study).rows

    assert {name: round(statistic.mean, 6) for name, statistic in row.statistics.items()} == {
        "baseline_top1": 0.95,
        "after_pruning_top1": 0.25,
        "top1": 0.875,
        "top1_change": -0.075,
        "baseline_top5": 0.99,
        "after_pruning_top5": 0.75,
        "top5": 0.96,
        "top5_change": -0.03,
        "baseline_flops": 800,
        "flops": 200,
        "flops_fraction": 0.25,
        "flops_ratio": 4,
        "baseline_macs": 300,
        "macs": 90,
        "macs_fraction": 0.3,
        "baseline_params": 50,
        "params": 10,
        "params_fraction": 0.2,
        "params_ratio": 5,
        "baseline_forward_ms_batch_1": 3,
        "forward_ms_batch_1": 2,
        "speedup_batch_1": 1.5,
        "baseline_forward_ms_batch_64": 90,
        "forward_ms_batch_64": 60,
        "speedup_batch_64": 1.5,
        "budget_reached": 0.5,
        "score_s": 1.5,
        "recovery_s": 30,
        "total_s": 34,
        "masked_vs_pruned": 0.000001,
        "best_epoch_top1": 0.89,
        "best_epoch": 7,
        "other_load": 0.25,
        "calibrated_top1": 0.6,
    }


def test_speed_up_is_the_mean_of_those_of_the_runs_not_of_the_mean_times(study: StudyFolder) -> None:
    study.finished(
        "l1", 0, baseline=study.network(0.95, 80, (2.0, 40.0)), pruned=study.network(0.9, 40, (1.0, 40.0))
    )
    study.finished(
        "l1", 1, baseline=study.network(0.95, 80, (9.0, 40.0)), pruned=study.network(0.9, 40, (3.0, 40.0))
    )

    (row,) = table_of(study).rows

    assert (
        row.statistics["speedup_batch_1"].mean == 2.5
    )  # of 2 and 3; the mean times would say 5.5 / 2 = 2.75


def test_values_that_a_record_lacks_are_unknown(study: StudyFolder) -> None:
    untimed = {**study.network(0.9, 40_000_000, (1.0, 1.0), top5=None), "latency_ms": {}}
    study.finished("l1", pruned=untimed)

    (row,) = table_of(study).rows

    assert row.statistics["top5"] is None
    assert row.statistics["top5_change"] is None
    assert row.statistics["forward_ms_batch_64"] is None
    assert row.statistics["speedup_batch_64"] is None
    assert row.statistics["baseline_forward_ms_batch_64"].mean == 40


def test_rows_are_sorted_by_budget_and_then_by_accuracy(study: StudyFolder) -> None:
    study.finished("l1", keep=0.3, top1=0.99)
    study.finished("l1", keep=0.7, top1=0.80)
    study.finished("l2", keep=0.7, top1=0.90)
    study.finished("fpgm", keep=0.5, top1=0.70)
    study.finished("apoz", keep=0.5, top1=0.70)

    rows = table_of(study).rows

    assert [(row.key.keep, row.key.method) for row in rows] == [
        (0.7, "l2"),
        (0.7, "l1"),
        (0.5, "apoz"),
        (0.5, "fpgm"),
        (0.3, "l1"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": ["filter", "stage"]},
        {"recipe": "iterative"},
        {"budget": {"resource": "params", "keep": 0.5, "reached": 0.5, "allocation": "global", "divisor": 1}},
        {"budget": {"resource": "flops", "keep": 0.5, "reached": 0.5, "allocation": "uniform", "divisor": 1}},
        {"budget": {"resource": "flops", "keep": 0.5, "reached": 0.5, "allocation": "global", "divisor": 8}},
        {"config": {"seed": 0, "recipe": {"epochs": 6}}},
    ],
)
def test_runs_that_are_not_alike_are_not_averaged(study: StudyFolder, changes: dict[str, object]) -> None:
    study.finished("l1", 0)
    study.finished("l1", 1, **changes)

    assert [row.seeds for row in table_of(study).rows] in ([(0,), (1,)], [(1,), (0,)])


def test_the_order_of_the_levels_does_not_matter(study: StudyFolder) -> None:
    study.finished("l1", 0, levels=["stage", "filter"])
    study.finished("l1", 1, levels=["filter", "stage"])

    (row,) = table_of(study).rows

    assert row.key.levels == ("filter", "stage")


def test_settings_that_differ_are_named_but_not_seeds_and_places(study: StudyFolder) -> None:
    def config(seed: int, epochs: int) -> dict[str, object]:
        return {
            "seed": seed,
            "recipe": {"epochs": epochs, "lr": 0.1},
            "data": {
                "_target_": "prunelab.data.Cifar10",
                "seed": seed,
                "root": f"/disk{seed}",
                "split_seed": 0,
            },
            "outputs": f"/somewhere/{seed}",
            "logger": {"name": f"run {seed}"},
            "baseline": {"path": f"net{seed}.pt"},
        }

    study.finished("l1", 0, top1=0.9, config=config(0, epochs=5), key="a")
    study.finished("l1", 1, top1=0.9, config=config(1, epochs=5), key="b")
    study.finished("l1", 0, top1=0.8, config=config(0, epochs=1), key="c")

    rows = table_of(study).rows

    assert [(row.key.settings, row.seeds) for row in rows] == [
        ("recipe.epochs=5", (0, 1)),
        ("recipe.epochs=1", (0,)),
    ]


def test_images_of_other_folders_are_other_images(study: StudyFolder) -> None:
    for seed, root in enumerate(("/flowers", "/birds")):
        study.finished("l1", seed, config={"data": {"_target_": "prunelab.data.ImageFolder", "root": root}})

    assert sorted(row.key.settings for row in table_of(study).rows) == [
        "data.root=/birds",
        "data.root=/flowers",
    ]


def test_many_differing_settings_are_counted(study: StudyFolder) -> None:
    for value in (0, 1):
        study.finished("l1", value, config={"recipe": dict.fromkeys("abcde", value)})

    assert sorted(row.key.settings for row in table_of(study).rows) == [
        "recipe.a=0, recipe.b=0, recipe.c=0, and 2 more",
        "recipe.a=1, recipe.b=1, recipe.c=1, and 2 more",
    ]


def test_seeds_that_only_siblings_have_are_missing(study: StudyFolder) -> None:
    study.finished("l1", 0)
    study.finished("l1", 2)
    study.finished("l2", 2, top1=0.8)
    study.failed("fpgm", 1)

    rows = table_of(study).rows

    assert [(row.key.method, row.seeds, row.missing_seeds) for row in rows] == [
        ("l1", (0, 2), (1,)),
        ("l2", (2,), (0, 1)),
    ]


def test_each_seed_counts_once_in_the_accuracy_of_the_baseline(study: StudyFolder) -> None:
    for method in ("l1", "l2", "fpgm"):
        study.finished(method, 0, baseline=study.network(0.90, 80, (2.0, 40.0)))
    study.finished("l1", 1, baseline=study.network(0.80, 80, (6.0, 40.0)))

    baseline = table_of(study).baseline

    assert baseline.seeds == (0, 1)
    assert baseline.statistics["baseline_top1"].mean == pytest.approx(0.85)
    assert baseline.statistics["baseline_forward_ms_batch_1"].mean == pytest.approx((3 * 2.0 + 6.0) / 4)
    assert baseline.differing_seeds == ()


def test_methods_that_started_from_other_baselines_are_found(study: StudyFolder) -> None:
    for seed, difference in enumerate(
        (0.02, 0.0009)
    ):  # two points: another network; a tenth: another machine
        study.finished("l1", seed, baseline=study.network(0.90, 80, (2.0, 40.0)))
        study.finished("l2", seed, baseline=study.network(0.90 + difference, 80, (2.0, 40.0)))

    assert table_of(study).baseline.differing_seeds == (0,)


def test_a_table_of_only_failures_has_no_baseline(study: StudyFolder) -> None:
    study.failed("l1", 1)
    study.failed("l1", 0)

    table = table_of(study)

    assert table.baseline is None
    assert table.rows == ()
    assert [run.failure.seed for run in table.failed] == [0, 1]
