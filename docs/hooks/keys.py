"""The reference of configuration keys, written from the YAML files of conf/ and their comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

PACKAGE = "# @package _global_"


@dataclass(frozen=True)
class Key:
    """One key of a file: its name on the command line, its default as written, and its comment."""

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class Choice:
    """One file of conf/: ``path`` without suffix, relative to conf/, and ``about``, the comment at its top."""

    path: str
    about: str
    keys: tuple[Key, ...]
    builds_on: tuple[str, ...]

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def option(self) -> str:
        return self.path.rpartition("/")[2]


def choices(conf: Path) -> list[Choice]:
    """Every file of ``conf``, in the order of their paths."""
    paths = sorted(path for path in conf.rglob("*.yaml") if path.parent != conf / "hydra/help")
    homes = _homes(conf, paths)
    return [_read(conf, path, homes) for path in paths]


def page(conf: Path) -> str:
    """The reference page in Markdown."""
    found = choices(conf)
    main = next(choice for choice in found if choice.path == "config")
    groups = sorted({choice.group for choice in found} - {""})
    shared = [choice for choice in found if not choice.group and choice is not main]
    parts = [
        "# Configuration keys\n\nThis page is generated from the YAML files of `conf/` and their comments. On the "
        "command line a key is set as `key=value` and a group is chosen as `group=choice`. `prunelab --cfg job` prints "
        "the whole configuration of a run with its values.\n",
        f"## Main keys\n\n{main.about}\n\n{_table(main.keys)}",
    ]
    for group in groups:
        members = [choice for choice in found if choice.group == group]
        parts.append(f"## {group}\n")
        if group.startswith("experiment"):
            parts.append(
                "\n".join(f"- `{group}={choice.option}`: {_line(choice.about)}" for choice in members)
            )
        else:
            parts.extend(_section(choice, f"{group}={choice.option}") for choice in members)
    parts.append(
        "## Shared files\n\nOther files build on these; their keys are set under the group that uses them.\n"
    )
    parts.extend(_section(choice, f"{choice.path}.yaml") for choice in shared)
    return "\n".join(parts) + "\n"


def _section(choice: Choice, title: str) -> str:
    based = ", ".join(f"`{name}`" for name in choice.builds_on)
    lines = [
        f"### {title}",
        choice.about,
        f"Builds on {based}, and also has its keys." if based else "",
        _table(choice.keys),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _table(keys: Sequence[Key]) -> str:
    if not keys:
        return ""
    rows = (f"| `{key.name}` | {_code(key.default)} | {_cell(key.comment)} |" for key in keys)
    return "\n".join(["| Key | Default | Meaning |", "| :-- | :-- | :-- |", *rows]) + "\n"


def _code(value: str) -> str:
    if value == "???":
        return "must be given"
    if reference := re.fullmatch(r"\$\{([\w.]+)\}", value):
        return f"value of `{reference[1]}`"
    return "`{}`".format(value.replace("|", "\\|")) if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _line(text: str) -> str:
    return " ".join(text.split())


def _homes(conf: Path, paths: Sequence[Path]) -> dict[str, str]:
    """For each file at the top of conf/ that others include with ``@_here_``, the group of these others."""
    homes = {}
    for path in paths:
        for name in re.findall(r"/([\w/]+)@_here_", path.read_text()):
            group = path.relative_to(conf).parent.as_posix()
            if group != ".":
                homes[name] = group
    for _ in paths:  # a shared file may build on another one
        for path in paths:
            name = path.relative_to(conf).with_suffix("").as_posix()
            for included in re.findall(r"/([\w/]+)@_here_", path.read_text()):
                if name in homes:
                    homes.setdefault(included, homes[name])
    return homes


def _read(conf: Path, path: Path, homes: dict[str, str]) -> Choice:
    name = path.relative_to(conf).with_suffix("").as_posix()
    text = path.read_text()
    group = homes.get(name, name.rpartition("/")[0])
    prefix = "" if PACKAGE in text or not group else group.replace("/", ".") + "."
    root = yaml.compose(text)
    keys = () if root is None else tuple(_keys(root, text.splitlines(), prefix))
    return Choice(name, _about(text), keys, _builds_on(yaml.safe_load(text) or {}))


def _about(text: str) -> str:
    """The comment at the top of a file. Lines that are indented further are commands or examples."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line != PACKAGE:
            lines.append(line[1:].removeprefix(" "))
    return re.sub(r"(?m)^ {2,}(\S.*)$", r"\n    \1\n", "\n".join(lines)).strip()


def _builds_on(values: object) -> tuple[str, ...]:
    """The files of the defaults list, without choices of the user and overrides of other groups."""
    defaults = values.get("defaults", []) if isinstance(values, dict) else []
    return tuple(
        entry.partition("@")[0].removeprefix("/")
        for entry in defaults
        if isinstance(entry, str) and entry != "_self_"
    )


def _keys(node: yaml.Node, lines: Sequence[str], prefix: str) -> Iterator[Key]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.value.startswith("_") or key.value in ("defaults", "hydra"):
            continue
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style and bool(value.value)
        # A value over several lines has its comment on the line of its key.
        in_line = value.start_mark.line == value.end_mark.line
        end = value.end_mark if in_line and not nested else key.end_mark
        default = "" if nested else _source(lines, value)
        yield Key(f"{prefix}{key.value}", default, _comment(lines, end.line, end.column))
        if nested:
            yield from _keys(value, lines, f"{prefix}{key.value}.")


def _source(lines: Sequence[str], value: yaml.Node) -> str:
    """The value as it is written, on one line."""
    start, end = value.start_mark, value.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column]
    return str(yaml.safe_load(yaml.serialize(value)))


def _comment(lines: Sequence[str], line: int, column: int) -> str:
    """The comment after a value, and the following lines that contain only a comment in the same column."""
    if line >= len(lines):
        return ""
    before, mark, comment = lines[line][column:].partition("#")
    if not mark:
        return ""
    parts, start = [comment.strip()], column + len(before)
    for following in lines[line + 1 :]:
        stripped = following.lstrip()
        if not stripped.startswith("#") or abs(len(following) - len(stripped) - start) > 1:
            break
        parts.append(stripped[1:].strip())
    return " ".join(parts)
