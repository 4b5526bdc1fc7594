"""What this machine has not is refused before any work."""

from __future__ import annotations

import pytest
import torch

from prunelab.errors import UserError
from prunelab.recovery import Machine


def test_the_cpu_is_always_there() -> None:
    machine = Machine(accelerator="cpu")
    assert machine.trainer(logger=False).world_size == 1
    assert machine.device == torch.device("cpu")


@pytest.mark.parametrize(
    "settings",
    [{"accelerator": "tpuu"}, {"precision": "7"}, {"strategy": "ddq"}],
)
def test_what_does_not_exist_is_the_users_mistake(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match="settings under trainer cannot be used"):
        Machine(**settings).trainer(logger=False)  # type: ignore[arg-type]
