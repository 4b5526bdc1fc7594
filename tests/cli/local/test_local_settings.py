"""The share of the machine for each of several concurrent runs."""

from __future__ import annotations

import pytest

from prunelab.cli.local import LocalSettings, launch
from prunelab.errors import UserError
from prunelab.evaluation import load

GPUS = ["0", "1", "2", "3"]


def gpus_of(shares: list[dict[str, str]]) -> list[str | None]:
    return [share.get("CUDA_VISIBLE_DEVICES") for share in shares]


def test_one_run_for_each_gpu_with_an_equal_share_of_the_cores() -> None:
    shares = LocalSettings().shares(GPUS, cores=32)
    assert gpus_of(shares) == GPUS
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"8"}


def test_one_run_for_each_core_without_gpus() -> None:
    shares = LocalSettings().shares([], cores=6)
    assert len(shares) == 6
    assert shares[0] == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert len(LocalSettings(threads=4).shares([], cores=6)) == 1
    assert len(LocalSettings(threads=4).shares([], cores=2)) == 1
    assert LocalSettings(jobs=2).shares([], cores=6)[1]["OMP_NUM_THREADS"] == "3"


def test_the_launcher_and_the_measurement_use_the_same_variable() -> None:
    assert launch.CONCURRENT_RUNS_VARIABLE == load.CONCURRENT_RUNS_VARIABLE


def test_gpus_can_be_named_joined_and_shared() -> None:
    assert gpus_of(LocalSettings(gpus=[5, 7]).shares(GPUS, 8)) == ["5", "7"]
    assert gpus_of(LocalSettings(gpus_per_job=2).shares(GPUS, 8)) == ["0,1", "2,3"]
    assert gpus_of(LocalSettings(gpus_per_job=3).shares(GPUS, 8)) == ["0,1,2"]
    assert gpus_of(LocalSettings(jobs=3).shares(["GPU-a", "GPU-b"], 8)) == ["GPU-a", "GPU-b", "GPU-a"]
    assert gpus_of(LocalSettings(gpus=[], jobs=2).shares(GPUS, 8)) == ["", ""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jobs": 0}, "hydra.launcher.jobs must be a whole number, at least 1, not 0"),
        ({"threads": "all"}, "hydra.launcher.threads must be a whole number"),
        ({"gpus_per_job": None}, "hydra.launcher.gpus_per_job must be a whole number"),
        ({"gpus": "all"}, r"hydra.launcher.gpus must be auto or a list such as \[0,1\], not 'all'"),
        ({"gpu": [0]}, "There is no key hydra.launcher.gpu. Did you mean 'gpus'"),
    ],
)
def test_impossible_settings_are_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalSettings.of(settings)


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(UserError, match=r"gpus_per_job=8 is more than the 4 available GPU\(s\)"):
        LocalSettings(gpus_per_job=8).shares(GPUS, 8)
