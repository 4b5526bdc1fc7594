"""Digests of contents that a configuration names: images of a folder, weights in a file, code of user classes.

Without them a run would count as finished although the named content has changed.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prunelab.errors import UserError
from prunelab.records import sources
from prunelab.records.atomic import write_atomically
from prunelab.records.classes import TARGET, class_name, classes

PUBLISHED_DATA = ("Cifar10", "FashionMnist", "ImageNet")
"""Data sets with the same images in every folder, except folders with a part of ImageNet."""

IMAGENET_CLASSES = 1000
IMAGENET_TEST_IMAGES = 50_000
IMAGENET_IMAGES_OF_A_CLASS = 732
"""The smallest number of training images of a class."""

BY_CONTENT = ("data.root", "baseline.path")
"""Settings that are identified by the content of the named files, not by the path."""

CONTENT_BYTES = 2**30
"""Files of larger folders are identified by name, size and time of change; those of smaller ones by their content."""

IMAGE_PARTS = ("train", "val", "test")
"""The subfolders from which an image folder is read, if it has the first one; other files are ignored."""


def content_digests(config: Mapping[str, Any], folders: dict[Path, str] | None = None) -> dict[str, str]:
    """The digests of all contents that a run of the resolved ``config`` reads, by the name of the setting.

    ``data.root``: the images of an image folder, or of a folder with a part of ImageNet's classes; of another data set,
    unless it is a published one, the path.
    ``baseline.path``: the file. ``model.module``, ``method.module``: the source of the user module.
    ``method._target_``, ``method.criterion._target_``, ...: the source of each class that is not prunelab's. A source
    includes imported modules outside the installed packages.

    Args:
        folders: digests of folders that were read before; new ones are added. A sweep then reads each folder once, not
            once per run.

    Raises:
        UserError: the baseline file cannot be read.
    """
    found = {}
    data, baseline, module = config["data"], config["baseline"], config["model"].get("module")
    if (root := data.get("root")) is not None and not _is_published(data):
        found["data.root"] = _root_digest(
            Path(str(root)).expanduser().resolve(), data, {} if folders is None else folders
        )
    if "path" in baseline:
        found["baseline.path"] = file_digest(Path(str(baseline["path"])).expanduser())
    if module is not None:
        found["model.module"] = source_digest(str(module))
    if (module := config["method"].get("module")) is not None:
        found["method.module"] = source_digest(str(module))
    for place, target in classes(config).items():
        if not sources.is_own(target):
            found[f"{place}._target_"] = source_digest(target.rpartition(".")[0])
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content. Raises UserError if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"The baseline file {path} cannot be read: {error.strerror}. Check baseline.path."
        ) from error


def source_digest(module: str) -> str:
    """A digest of the source of ``module`` and of the modules that it imports, directly or not.

    Comments and blank lines are ignored. Modules of Python itself and of installed packages are ignored, because a
    record holds their versions; ``module`` itself is included even if it is installed.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_imported(module).items()):
        digest.update(f"{name}\0".encode())
        digest.update(_code(path))
    return digest.hexdigest()


def folder_digest(root: Path) -> str:
    """A digest of the files of an image folder.

    The digest is that of names and contents if the files have at most ``CONTENT_BYTES``, else that of names, sizes and
    times of change.
    """
    tops = [root / part for part in IMAGE_PARTS] if (root / IMAGE_PARTS[0]).is_dir() else [root]
    files = sorted(path for top in tops for path in _files(top))
    manifest, size = hashlib.sha256(), 0
    changes = hashlib.sha256()
    for path in files:
        status = os.stat(path)  # noqa: PTH116  # a million Path objects take seconds
        size += status.st_size
        manifest.update(os.fsencode(f"{path[len(str(root)) :]}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        # Programs that copy files can restore st_mtime_ns, but not these.
        changes.update(f"{status.st_ino}\0{status.st_ctime_ns}\n".encode())
    if size > CONTENT_BYTES:
        return manifest.hexdigest()
    changes.update(manifest.digest())
    return _content_digest(root, files, changes.hexdigest())


def _is_published(data: Mapping[str, Any]) -> bool:
    """Whether the name of the data set is enough to identify its images."""
    name = class_name(str(data.get(TARGET)))
    return name in PUBLISHED_DATA and not (
        name == "ImageNet" and _is_part_of_imagenet(Path(str(data["root"])).expanduser())
    )


def _is_part_of_imagenet(root: Path) -> bool:
    """Whether a folder of ImageNet exists, and does not hold all classes and images.

    Of the 1.28 million training images only those of every hundredth class are counted.
    """
    parts = [root / part for part in IMAGE_PARTS[:2]]
    if not all(part.is_dir() for part in parts):
        return False
    train, test = (_subfolders(part) for part in parts)
    return (
        len(train) < IMAGENET_CLASSES
        or len(test) < IMAGENET_CLASSES
        or sum(map(_entries, test)) < IMAGENET_TEST_IMAGES
        or any(_entries(folder) < IMAGENET_IMAGES_OF_A_CLASS for folder in train[::100])
    )


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir())


def _entries(folder: str) -> int:
    with os.scandir(folder) as entries:
        return sum(1 for _ in entries)


def _root_digest(root: Path, data: Mapping[str, Any], folders: dict[Path, str]) -> str:
    """The digest of ``data.root``. A folder that does not exist, or whose use is unknown, is identified by its path."""
    if class_name(str(data.get(TARGET))) not in ("ImageFolder", "ImageNet") or not root.is_dir():
        return hashlib.sha256(os.fsencode(root)).hexdigest()
    if root not in folders:
        folders[root] = folder_digest(root)
    return folders[root]


def _content_digest(root: Path, files: Iterable[str], state: str) -> str:
    """The digest of all contents, stored in the user's cache until ``state`` (names, sizes, times) changes."""
    known = _cache_folder() / state
    with suppress(OSError):
        return known.read_text(encoding="ascii").strip()
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:  # noqa: PTH123  # as above
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(os.fsencode(f"{path[len(str(root)) :]}\0{content}\n"))
    with suppress(OSError):  # without a cache only the next start takes longer
        known.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(known, digest.hexdigest())
    return digest.hexdigest()


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prunelab" / "contents"


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (f"{parent}/{name}" for name in files if not name.startswith("."))


def _imported(module: str) -> dict[str, Path]:
    """The source files of a module and of all its imports outside the installed packages, by module name."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found or sources.is_own(name) else sources.find_module(name)
        if path is None or (name != module and sources.is_installed(path)):
            continue
        found[name] = path
        waiting += _imports(name)
    return found


def _imports(module: str) -> set[str]:
    """Names that may be modules, from all import statements of a module, and its parent packages."""
    tree = sources.parse_module(module)
    names = {module.rpartition(".")[0]} - {""}
    for node in [] if tree is None else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (source := sources.imported_module(node, module)):
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return {name for name in names if not sources.is_builtin(name.partition(".")[0])}


def _code(path: Path) -> bytes:
    """A source file without comments, blank lines and spaces at the end of lines; any other file unchanged."""
    content = path.read_bytes()
    try:
        lines = content.decode().splitlines()
        for token in tokenize.generate_tokens(io.StringIO(content.decode()).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return content
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()
