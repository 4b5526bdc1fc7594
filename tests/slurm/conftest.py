"""A cluster for the tests of this folder. ``make test-slurm`` installs its packages and runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

WANTED = "PRUNELAB_SLURM"
"""Environment variable: the tests of this folder are run, and fail if Slurm is missing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(WANTED) == "1":
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="needs a Slurm cluster: make test-slurm"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which prunelab and Slurm's commands find a cluster of one node."""
    from one_node import one_node_cluster
    from sweep import UNDER_WAY

    folder = tmp_path_factory.mktemp("slurm")
    with one_node_cluster(folder) as environment:
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            yield {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        finally:
            for process in UNDER_WAY:
                process.kill()  # no effect on an ended process
                process.wait()
