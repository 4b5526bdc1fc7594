"""An untrusted study: prunelab-report runs no code from any file in its folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.report.conftest import StudyFolder

from prunelab.cli.report import main


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


FILES = (
    "config.yaml", "curves.csv", "failure.json", "model.safetensors", "plan.json", "contents.json", "record.json",
    "run.log", "rounds/1/decision.json", "rounds/1/search.pt", "rounds/1/a-b/epoch-0001.ckpt",
)  # fmt: skip
"""Files that the folder of a run can contain."""


def test_pickles_and_yaml_tags_are_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = tmp_path / "ran"
    study = StudyFolder(tmp_path / "study")
    study.finished("l1")
    attacks = {
        "pickle": pickle.dumps(Bomb(ran)),
        "yaml": f"!!python/object/apply:os.system ['touch {ran}']".encode(),
    }
    for kind, content in attacks.items():
        for name in FILES:
            # Each file alone in the folder of a run, and all of them together.
            for folder in (study.path / f"{kind}-{name.replace('/', '-')}", study.path / f"{kind}-all"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
                (folder / "config.yaml").touch()
        (study.path / f"{kind}-targets").mkdir()
        target = {"_target_": "os.system", "command": f"touch {ran}"}
        (study.path / f"{kind}-targets" / "config.yaml").write_text(
            json.dumps({"method": target, "model": target})
        )

        assert main([str(study.path), "--out", str(tmp_path / kind)]) == 0

        assert not ran.exists()
        assert "l1" in capsys.readouterr().out
        (study.path / "published.csv").write_bytes(content)
        assert main([str(study.path), "--out", str(tmp_path / kind)]) in (0, 1)
        (study.path / "published.csv").unlink()
        assert not ran.exists()
    pickle.loads(attacks["pickle"])
    assert ran.exists()


def test_records_name_classes_that_the_report_does_not_create(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    study = StudyFolder(tmp_path / "study")
    target = {"_target_": "os.system", "command": f"touch {ran}"}
    study.finished(
        "l1", config={"seed": 0, "method": target, "model": {"module": "os"}, "recipe": {"training": target}}
    )
    assert main([str(study.path)]) == 0
    assert not ran.exists()
