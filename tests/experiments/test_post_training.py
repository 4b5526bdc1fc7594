"""The tables of experiments/post_training are those of its records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "post_training"


def test_the_tables_are_made_from_the_records(tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(FOLDER / "records")
    (tmp_path / "table.py").write_text((FOLDER / "table.py").read_text())
    subprocess.run([sys.executable, tmp_path / "table.py"], check=True)
    assert (tmp_path / "table.md").read_text() == (FOLDER / "table.md").read_text()
