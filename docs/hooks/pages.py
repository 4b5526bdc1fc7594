"""Pages that MkDocs gets from the code: the configuration keys and the public API."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import keys
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import prunelab

ROOT = Path(__file__).resolve().parents[2]

PARTS: Mapping[str, str] = {
    "structure": "Structure: what can be removed, what it costs, and how it is removed",
    "methods": "Methods: criteria, budgets and callbacks",
    "export": "Checkpoints: save and load",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages. MkDocs calls this before it reads the navigation."""
    for path, text in (("reference/keys.md", keys.page(ROOT / "conf")), ("reference/api.md", api())):
        files.append(File.generated(config, path, content=text))
    return files


def api() -> str:
    """A directive of mkdocstrings for each public name, under the package that defines it."""
    homes = sorted(
        (_package(name), name.lower(), name) for name in prunelab.__all__ if not name.startswith("_")
    )
    parts = [
        "# Public API\n\nEvery name below is imported from `prunelab`: `from prunelab import analyze`.\n"
    ]
    for package, members in groupby(homes, key=lambda home: home[0]):
        parts.append(f"## {PARTS.get(package, package.capitalize())}\n")
        parts.extend(f"::: {_path(name)}\n" for _, _, name in members)
    return "\n".join(parts)


def _path(name: str) -> str:
    """Where a public name is defined."""
    return f"{getattr(prunelab, name).__module__}.{name}"


def _package(name: str) -> str:
    """The package inside prunelab: ``structure`` for ``prunelab.structure.plan``."""
    return str(getattr(prunelab, name).__module__).split(".")[1]
