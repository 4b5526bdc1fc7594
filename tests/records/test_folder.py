"""The folder of a run: when it is finished, and the message if it cannot be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunelab.errors import UserError
from prunelab.records import RunFolder, claimed

Configure = Callable[..., dict[str, Any]]


def test_a_folder_is_named_by_study_and_key_and_not_made_by_asking(smallest: Configure) -> None:
    config = smallest("study=mine")
    folder = RunFolder.of(config)
    assert folder.path == Path(config["outputs"]) / "mine" / folder.key
    assert folder.record() is None
    assert not folder.path.exists()


def test_a_damaged_record_is_an_error_by_name(smallest: Configure) -> None:
    folder = RunFolder.of(smallest())
    folder.create()
    (folder.path / "record.json").write_text('{"schema": 1, ')
    with pytest.raises(UserError, match=r"record\.json is damaged: .*Delete it"):
        folder.record()


def test_starting_again_forgets_the_failure_and_half_written_files(smallest: Configure) -> None:
    config = smallest()
    folder = RunFolder.of(config)
    folder.create()
    (folder.path / "failure.json").write_text("{}")
    (folder.path / ".record.json.x7y8.partial").write_text('{"schema"')
    with claimed(folder.path, "it") as claim:
        folder.start(config, claim)
    assert sorted(file.name for file in folder.path.iterdir()) == [".lock", "config.yaml", "contents.json"]


def test_an_interrupted_run_of_other_code_starts_from_the_beginning(smallest: Configure) -> None:
    config = smallest()
    folder = RunFolder.of(config)
    folder.create()
    with claimed(folder.path, "it") as claim:
        folder.start(config, claim)
        folder.rounds.mkdir()
        (folder.path / "curves.csv").write_text("phase,epoch\n")
        folder.start(config, claim)
        assert folder.rounds.is_dir()
        replace(folder, contents={"method._target_": "another"}).start(config, claim)
    assert not folder.rounds.exists()
    assert not (folder.path / "curves.csv").exists()


def test_a_file_in_the_way_is_said_before_any_work(smallest: Configure, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("not a folder")
    with pytest.raises(UserError, match=r"output folder .* cannot be written: .*outputs=FOLDER"):
        RunFolder.of(smallest()).create()


def test_a_missing_folder_of_another_file_system(smallest: Configure, tmp_path: Path) -> None:
    folder = RunFolder.of(smallest("outputs=/proc/nowhere"))
    with pytest.raises(UserError, match="cannot be written"):
        folder.create()
    shutil.rmtree(tmp_path / "outputs", ignore_errors=True)


@pytest.mark.parametrize("study", ["a/b", "..", ".hidden", "baselines"])
def test_a_study_is_a_folder_name_of_its_own(smallest: Configure, study: str) -> None:
    with pytest.raises(UserError, match="study="):
        RunFolder.of(smallest(f"study={study}"))
