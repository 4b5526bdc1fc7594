"""Copies the records of finished runs, with their deployments but without networks, into ``records/``.

python experiments/deployment/collect.py outputs/resnet56 outputs/lite0
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

RECORDS = Path(__file__).parent / "records"
FILES = ("record.json", "failure.json", "deployment/deployment.json")


def main() -> None:
    """Copy the files of all runs in the folders of the command line."""
    for run in (run for folder in sys.argv[1:] for run in sorted(Path(folder).iterdir()) if run.is_dir()):
        for file in (run / name for name in FILES if (run / name).is_file()):
            copied = RECORDS / run.name / file.relative_to(run)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)


if __name__ == "__main__":
    main()
