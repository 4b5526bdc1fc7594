from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.cli.report import main
from prunelab.records import RunFolder
from prunelab.records.parts import (
    Accuracy,
    BudgetSummary,
    GitState,
    Metrics,
    PlanSummary,
    Timings,
)
from prunelab.records.schema import Record
from prunelab.steps import Setup

RECORD = Record(
    key="0a0a",
    study="demo",
    method="l1",
    model="resnet20",
    data="digits",
    seed=0,
    levels=("filter",),
    budget=BudgetSummary("flops", 0.5, 0.5, "global", 1),
    recipe="one_shot",
    baseline=Metrics(0.95, 0.99, 80_000_000, 40_000_000, 270_000, {1: 2.0, 64: 40.0}),
    after_pruning=Accuracy(0.5, 0.8),
    pruned=Metrics(0.9, 0.99, 40_000_000, 20_000_000, 140_000, {1: 1.6, 64: 20.0}),
    plan=PlanSummary({"layer1": (16, 8)}, (), "00ff", 1e-7),
    config={},
    timings=Timings(0.0, 1.5, 30.0, 2.0, 34.0),
    versions={},
    hardware={},
    git=GitState(None, False),
    started="2026-11-24T10:00:00+00:00",
    finished="2026-11-24T10:01:00+00:00",
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    (folder / RECORD.key).mkdir(parents=True)
    (folder / RECORD.key / "record.json").write_text(RECORD.to_json(), encoding="utf-8")
    return folder


def test_prints_the_table_and_what_was_written(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study)]) == 0

    output = capsys.readouterr().out
    assert "resnet20 on digits" in output
    assert "40.00 (50.0 %)" in output
    files = ("table.md", "table.csv", "table.tex", "page.html")
    assert output.splitlines()[-len(files) :] == [f"Wrote {study / name}" for name in files]
    assert (study / "table.md").read_text(encoding="utf-8").startswith("# demo\n")
    assert (study / "table.csv").read_text(encoding="utf-8").startswith("status,model,data,method,")


def test_a_second_report_is_the_same(study: Path) -> None:
    main([str(study)])
    first = (study / "table.md").read_bytes()

    assert main([str(study)]) == 0
    assert (study / "table.md").read_bytes() == first


def test_files_can_go_elsewhere(study: Path, tmp_path: Path) -> None:
    assert main([str(study), "--out", str(tmp_path / "new" / "folder")]) == 0

    written = sorted(path.name for path in (tmp_path / "new/folder").iterdir())
    assert written == ["page.html", "table.csv", "table.md", "table.tex"]
    assert not (study / "table.md").exists()


def test_the_width_can_be_given(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study), "--width", "80"]) == 0

    table = capsys.readouterr().out.partition("Accuracies")[0]
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("width", ["0", "-3", "wide"])
def test_a_width_that_is_none_is_an_error(
    study: Path, capsys: pytest.CaptureFixture[str], width: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(study), f"--width={width}"])

    assert caught.value.code == 2
    assert f"must be 1 or more, not {width}" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1

    output = capsys.readouterr()
    assert output.out == ""
    message = f"{tmp_path / 'nowhere'} does not exist. Give the folder of a study, such as outputs/demo."
    assert output.err == f"prunelab-report: {message}\n"


def test_the_command_that_is_suggested_for_an_empty_study_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["outputs/empty"]) == 1

    _, _, command = capsys.readouterr().err.partition("To start one: ")
    program, *words = shlex.split(command)
    config = configure(words)

    assert program == "prunelab"
    assert Setup.of(config).budget.keep == 0.5
    assert RunFolder.of(config).path.parent.resolve() == tmp_path / "outputs" / "empty"


def test_a_folder_that_cannot_be_written_is_a_users_mistake(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_the_way = study / "0a0a" / "record.json"

    assert main([str(study), "--out", str(in_the_way)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_the_traceback_is_shown_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNELAB_TRACEBACK", "0")  # which the flag changes, and monkeypatch changes back

    assert main([str(tmp_path / "nowhere"), "--traceback"]) == 1

    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "STUDY",
        "--out FOLDER",
        "--published FILE",
        "--wandb ENTITY/PROJECT",
        "--width N",
        "--traceback",
    ):
        assert option in text


def test_starts_without_torch(study: Path) -> None:
    program = (
        "import sys\n"
        "from prunelab.cli.report import main\n"
        f"assert main([{str(study)!r}]) == 0\n"
        "heavy = {'torch', 'pytorch_lightning', 'lightning', 'timm', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
