"""Pages that are generated from the code: the configuration keys and the public API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keys
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import prunelab

ROOT = Path(__file__).resolve().parents[2]

PARTS: Mapping[str, str] = {
    "structure": "Structure: removable parts, their costs, and their removal",
    "methods": "Methods: criteria, budgets and callbacks",
    "export": "Checkpoints: save and load",
    "errors": "Errors",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages. MkDocs calls this before it reads the navigation."""
    for path, text in (("reference/keys.md", keys.page(ROOT / "conf")), ("reference/api.md", api())):
        files.append(File.generated(config, path, content=text))
    return files


def api() -> str:
    """A directive of mkdocstrings for each public name, under the package that defines it."""
    packages: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in sorted(prunelab.__all__, key=str.lower):
        if not name.startswith("_"):
            packages.setdefault(_package(name), []).append(name)
    parts = [
        "# Public API\n\nEvery name below is imported from `prunelab`: `from prunelab import analyze`.\n"
    ]
    for package, names in packages.items():
        parts.append(f"## {PARTS.get(package, package.capitalize())}\n")
        parts.extend(f"::: {_path(name)}\n" for name in names)
    return "\n".join(parts)


def _path(name: str) -> str:
    """The path of the definition of a public name."""
    return f"{getattr(prunelab, name).__module__}.{name}"


def _package(name: str) -> str:
    """The package inside prunelab: ``structure`` for ``prunelab.structure.plan``."""
    return str(getattr(prunelab, name).__module__).split(".")[1]
