"""An untrusted record runs no code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab.cli.again import main
from prunelab.cli.config import configure
from prunelab.cli.trust import own_targets, require_trusted
from prunelab.errors import UserError

MODULE = "shared_networks"


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with everything that an attacker could send with a record."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    touch = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / f"{MODULE}.py").write_text(f"import os\n{touch}class Network: ...\ndef function(): ...\n")
    (tmp_path / "hubconf.py").write_text(f"dependencies = []\n{touch}def network(): ...\n")
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "bomb.pt")
    yield tmp_path
    sys.modules.pop(MODULE, None)


def record(config: dict[str, Any]) -> str:
    """The text of a record with this configuration."""
    metrics = {"top1": 0.9, "top5": 0.9, "flops": 2, "macs": 1, "params": 1, "latency_ms": {}}
    return json.dumps(
        {
            **dict.fromkeys(
                ("key", "study", "method", "model", "data", "recipe", "started", "finished"), "x"
            ),
            "schema": 1,
            "status": "finished",
            "seed": 0,
            "levels": ["filter"],
            "budget": {
                "resource": "flops",
                "keep": 0.5,
                "reached": 0.5,
                "allocation": "global",
                "divisor": 1,
            },
            "baseline": metrics,
            "after_pruning": {"top1": 0.9, "top5": 0.9},
            "pruned": metrics,
            "plan": {"widths": {}, "dropped_blocks": [], "digest": "00", "masked_vs_pruned": 0},
            "config": config,
            "timings": dict.fromkeys(("baseline_s", "score_s", "recovery_s", "evaluate_s", "total_s"), 0),
            "versions": {},
            "hardware": {},
            "git": {"revision": None, "dirty": False},
        }
    )


def changed(key: str, value: Any) -> dict[str, Any]:
    """The configuration of a run with one value replaced or added."""
    config = configure(["budget.flops=0.5", "method=taylor"])
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


TOUCH = "touch ran"
ATTACKS = {
    "os.system": ("logger", {"_target_": "os.system", "command": TOUCH}),
    "posix.system": ("data", {"_target_": "posix.system", "command": TOUCH}),
    "inside of another": ("method.criterion", {"_target_": "os.system", "command": TOUCH}),
    "in a list": ("exclude", [{"_target_": "os.system", "command": TOUCH}]),
    "in a group that no class is made of": ("names.more", {"_target_": "os.system", "command": TOUCH}),
    "torch.load": ("logger", {"_target_": "torch.load", "f": "bomb.pt", "weights_only": False}),
    "torch.hub.load": (
        "recipe",
        {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "network", "source": "local"},
    ),
    "subprocess through a module of prunelab": (
        "logger",
        {"_target_": "prunelab.steps.environment.subprocess.run", "args": ["touch", "ran"]},
    ),
    "a function of prunelab that imports": (
        "logger",
        {"_target_": "prunelab.models.user_models.import_user_module", "module": MODULE},
    ),
    "a class of prunelab that imports": (
        "method.criterion",
        {"_target_": "prunelab.steps.NetworkSettings", "name": "lenet5", "module": MODULE},
    ),
    "a function of prunelab that creates": (
        "logger",
        {
            "_target_": "prunelab.steps.setup.made",
            "settings": {"_target_": "os.system", "command": TOUCH},
            "group": "logger",
        },
    ),
    "no name": ("logger", {"_target_": ["os.system"]}),
    "a module that is imported to find the class": ("logger", {"_target_": f"{MODULE}.Network"}),
    "a network's module": ("model.module", MODULE),
    "a method's module": ("method.module", MODULE),
    "arguments without names": ("trainer._args_", ["cpu"]),
    "a partial": ("trainer._partial_", True),
    "a reference to the environment": ("study", "${oc.env:HOME}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_record_runs_no_code(attack: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, value = ATTACKS[attack]
    (folder / "record.json").write_text(record(changed(key, value)))

    assert main([str(folder / "record.json")]) == 1

    message = capsys.readouterr().err
    assert message.startswith(f"prunelab-again: {key}"), message
    assert "Traceback" not in message
    assert "fault of prunelab" not in message
    assert not (folder / "ran").exists()
    assert MODULE not in sys.modules
    assert not (folder / "outputs").exists()


def test_the_attack_with_a_pickle_works_without_protection(folder: Path) -> None:
    torch.load(folder / "bomb.pt", weights_only=False)
    assert (folder / "ran").exists()


def test_modules_that_the_user_names_are_trusted(folder: Path) -> None:
    require_trusted(changed("model.module", MODULE), [MODULE])
    require_trusted(changed("logger", {"_target_": f"{MODULE}.Network"}), [MODULE])
    assert (folder / "ran").exists()


@pytest.mark.parametrize("name", ["os.system", "os.path.join", "function", "Absent"])
def test_only_what_a_trusted_module_defines_itself_is_trusted(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"logger._target_={MODULE}.{name}"):
        require_trusted(changed("logger", {"_target_": f"{MODULE}.{name}"}), [MODULE])


def test_trust_ends_with_the_name_of_the_module(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.module"):
        require_trusted(changed("model.module", f"{MODULE}_of_another"), [MODULE])
    with pytest.raises(UserError, match=r"logger\._target_"):
        require_trusted(changed("logger", {"_target_": "torch.load"}), [MODULE])


def test_every_choice_of_the_configuration_is_trusted() -> None:
    for words in (
        ["method=lfpc"],
        ["method=eagleeye", "recipe=iterative"],
        ["data=image_folder", "data.root=x", "logger=wandb"],
        ["baseline=file", "baseline.path=x", "trainer=ddp", "recipe=front_to_back"],
    ):
        require_trusted(configure(["budget.flops=0.5", *words]))
    assert not any(target.startswith("prunelab.cli") for target in own_targets())
