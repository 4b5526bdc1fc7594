"""The environment of a run."""

from __future__ import annotations

import json
import platform

import torch

import prunelab
from prunelab.steps.environment import git_state, hardware, versions


def test_versions_and_hardware_are_plain_data() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["prunelab"] == prunelab.__version__
    assert torch.__version__.startswith(found["torch"])
    assert hardware()["threads"] == torch.get_num_threads()
    json.dumps([found, hardware()])


def test_the_revision_of_a_checkout_is_found() -> None:
    state = git_state()
    assert state.revision is None or len(state.revision) == 40
