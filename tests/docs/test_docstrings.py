"""The arguments that public docstrings describe exist."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import prunelab

pytestmark = pytest.mark.slow

PUBLIC = [name for name in sorted(prunelab.__all__) if not name.startswith("_")]


def described(docstring: str, heading: str = "Args") -> set[str]:
    """The names in the section ``heading``, also where several share one line."""
    section = re.search(rf"(?ms)^{heading}:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(docstring))
    lines = re.findall(r"(?m)^    (\*{0,2}\w+(?:, \w+)*): ", section[1]) if section else []
    return {name.lstrip("*") for line in lines for name in line.split(", ")}


def callables(thing: Any) -> Iterator[Any]:
    """A public function, or a class and its public methods."""
    yield thing
    if inspect.isclass(thing):
        yield from (
            member
            for name, member in vars(thing).items()
            if inspect.isfunction(member) and not name.startswith("_")
        )


def parameters(thing: Any) -> set[str]:
    """The names that a call accepts."""
    return set(inspect.signature(thing.__init__ if inspect.isclass(thing) else thing).parameters)


@pytest.mark.parametrize("name", PUBLIC)
def test_described_arguments_exist(name: str) -> None:
    for found in callables(getattr(prunelab, name)):
        if names := described(found.__doc__ or ""):
            assert names - parameters(found) == set(), found


MADE_BY_ANALYSIS = {"CostModel"}
"""Its methods are public, its constructor is not."""


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in MADE_BY_ANALYSIS])
def test_every_argument_is_described(name: str) -> None:
    """In ``Args``, or for plain data in ``Attributes``."""
    found = getattr(prunelab, name)
    if inspect.isclass(found) and issubclass(found, Exception):
        return
    names = {each for each in parameters(found) if not each.startswith("_")} - {"self", "args", "kwargs"}
    text = found.__doc__ or ""
    assert names - described(text) - described(text, "Attributes") == set()


def test_described_names_by_hand() -> None:
    text = """Does it.

    Args:
        one: first.
            more: text.
        two, three: both.
        **rest: others.

    Returns:
        four: no.
    """
    assert described(text) == {"one", "two", "three", "rest"}
