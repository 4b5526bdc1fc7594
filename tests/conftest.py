"""The smallest real run (digits, one epoch of each training, a small ResNet), and settings of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tests.forks import Forks

from prunelab.cli.config import configure

SMALLEST = (
    "budget.flops=0.5",
    "baseline.training.epochs=1",
    "recipe.training.epochs=1",
    "method=l1",
    "trainer=cpu",
    "study=tests",
)

# An example has no time limit: machines may be loaded. CI draws the same examples each time, so that its result depends
# on the change that it tests; elsewhere each run draws new ones.
settings.register_profile("new", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("PRUNELAB_EXAMPLES", "new"))

Configure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """Tests that a shell starts in the background, and their subprocesses, would ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of test images are not written into the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


@pytest.fixture
def smallest(tmp_path: Path) -> Configure:
    """Makes the resolved configuration of a smallest run in a folder of its own, with any other words."""

    def configured(*words: str) -> dict[str, Any]:
        return configure([*SMALLEST, f"outputs={tmp_path / 'outputs'}", *words])

    return configured
