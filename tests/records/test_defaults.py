"""Defaults of constructors, read from source files, are those of Python."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object

from prunelab.records.classes import class_name, present_target
from prunelab.records.defaults import defaults_of, defaults_of_network
from prunelab.records.key import NETWORK_SETTINGS

CONF = Path(__file__).parents[2] / "conf"
TARGETS = sorted(
    {
        target
        for path in CONF.rglob("*.yaml")
        for target in re.findall(r"_target_:\s*(prunelab\.[\w.]+)", path.read_text())
        if not target.startswith("prunelab.cli.")  # classes for Hydra, not in records
    }
    | {NETWORK_SETTINGS}
)
PLAIN = (type(None), bool, int, float, str, list, tuple, dict)


@pytest.mark.parametrize("target", TARGETS)
def test_they_are_those_of_the_signature(target: str) -> None:
    signature = {name: default for name, default in _signature(get_object(target)) if _is_plain(default)}
    assert dict(defaults_of(target)) == json.loads(json.dumps(signature))


@pytest.mark.parametrize("target", TARGETS)
def test_a_stable_name_leads_back_to_the_class(target: str) -> None:
    """A class may move within prunelab and is still found from records with its former path."""
    former = f"prunelab.a_former_place.{class_name(target)}"
    assert get_object(present_target(former)) is get_object(target)


def test_they_are_read_without_torch() -> None:
    code = (
        "import sys; from prunelab.records.defaults import defaults_of; "
        "defaults_of('prunelab.methods.SSL'); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that a test writes into the current folder."""
    monkeypatch.chdir(tmp_path)
    name = f"mine_{uuid.uuid4().hex}"
    yield name
    sys.modules.pop(name, None)


def test_constants_arithmetic_and_bases_are_followed(module: str) -> None:
    Path("elsewhere_for_defaults.py").write_text(
        "LIMIT = 3\nclass Base:\n    def __init__(self, a=1, b=2): ...\n"
    )
    Path(f"{module}.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from elsewhere_for_defaults import LIMIT, Base\n"
        "class Mine(Base):\n"
        "    def __init__(self, c, *, d=LIMIT, e=2**10, f=-0.5, g=(1, 2), h=print, b=7, **rest):\n"
        "        super().__init__(**rest)\n"
        "@dataclass\n"
        "class Data:\n"
        "    x: int\n"
        "    y: float = 1e-3\n"
        "    z: dict = field(default_factory=dict)\n"
    )
    assert defaults_of(f"{module}.Mine") == {"a": 1, "b": 7, "d": 3, "e": 1024, "f": -0.5, "g": [1, 2]}
    assert defaults_of(f"{module}.Data") == {"y": 1e-3, "z": {}}
    assert defaults_of(f"{module}.Absent") == defaults_of("absent_module.Absent") == {}


def test_a_user_network_has_those_of_the_function_that_registers_it(module: str) -> None:
    Path(f"{module}.py").write_text("def tiny(pretrained=False, width=8, **arguments): ...\n")
    assert defaults_of_network("tiny", module) == {"pretrained": False, "width": 8}
    assert importlib.util.find_spec("timm") is not None
    assert defaults_of_network("resnet18", None) == {}


def _signature(made: Any) -> Iterator[tuple[str, Any]]:
    """The defaults of a class that passes ``**settings`` to its bases, nearest class first."""
    seen: set[str] = set()
    for each in made.__mro__:
        if "__init__" not in each.__dict__:
            continue
        parameters = list(inspect.signature(each.__init__).parameters.values())[1:]
        for parameter in parameters:
            if parameter.name not in seen and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                seen.add(parameter.name)
                default = parameter.default
                # A dataclass has a marker in place of the value of a factory.
                yield parameter.name, {} if repr(default) == "<factory>" else default
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
