"""Migration of runs of earlier versions to the keys and names of this version."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from prunelab.errors import UserError
from prunelab.records.atomic import write_atomically
from prunelab.records.claim import LOCK_FILE
from prunelab.records.classes import class_name, classes
from prunelab.records.contents import content_digests
from prunelab.records.fields import RecordError
from prunelab.records.folder import BASELINES, CONFIG_FILE, CONTENTS_FILE, FAILURE_FILE, RECORD_FILE
from prunelab.records.key import KEY_SCHEMA, OF_THE_BASELINE, baseline_key, digest, run_key
from prunelab.records.own_digest import with_digest
from prunelab.records.renamed import upgraded
from prunelab.records.schema import Record

Config = Mapping[str, Any]

FIRST_WITHOUT_EFFECT = (
    "data.num_workers", "data.in_memory", "data.cache", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.strategy", "trainer.threads",
)  # fmt: skip
FIRST_NEUTRAL: Mapping[str, Any] = {
    "fast_dev_run": None,
    "model.module": None,
    "trainer.sync_batchnorm": False,
}
FIRST_PUBLISHED = ("prunelab.data.Cifar10", "prunelab.data.FashionMnist", "prunelab.data.ImageNet")
"""The rules of the first key schema that apply to baselines."""


@dataclass(frozen=True)
class Migrated:
    """The result for one folder: ``now`` is its present path; ``left`` is the reason if nothing was done."""

    before: Path
    now: Path
    left: str = ""

    @property
    def changed(self) -> bool:
        """Whether the folder was rewritten or renamed."""
        return not self.left


def migrate(folder: Path, places: Config, dry_run: bool = False) -> Iterator[Migrated]:
    """Rename all runs below ``folder`` to their present keys, one after the other.

    Each file is replaced as a whole and a folder is renamed last, so an interrupted migration can be continued by the
    same call. Nothing is deleted, and no other run is replaced. Runs that have their present keys are skipped.

    Args:
        folder: a run, a study, or the folder of all studies (``outputs``).
        places: present paths of files that a configuration names: ``{"data.root": ..., "baseline.path": ...}``.
        dry_run: report the changes without making them.
    """
    for run in sorted(_run_folders(folder)):
        try:
            if (done := _migrate_run(run, places, dry_run)) is not None:
                yield done
        except (RecordError, UserError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            yield Migrated(
                run, run, f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
            )


def _run_folders(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        if {RECORD_FILE, FAILURE_FILE, CONFIG_FILE} & set(files):
            folders.clear()
            yield Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".") and name != BASELINES]


def _migrate_run(run: Path, places: Config, dry_run: bool) -> Migrated | None:
    record, config = _read(run)
    if config is None:
        return Migrated(run, run, "its configuration is missing")
    recorded = (record or {}).get("contents") or _recorded_contents(run)
    present = upgraded(config)
    contents = {**_contents(present, places), **recorded}
    key = run_key(present, contents)
    target = run.with_name(key)
    if target == run and config == present and (record is None or record.get("key_schema") == KEY_SCHEMA):
        return None
    if target != run and target.exists():
        return Migrated(run, run, f"{target.name} in the same folder is the same run")
    if not dry_run:
        with _not_at_work(run, is_finished=record is not None):
            _rename_baseline(run.parent.parent / BASELINES, config, present, contents, places)
            _rewrite(run, record, present, contents, key)
            run.rename(target)
    return Migrated(run, target)


def _read(run: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The record, if the run is finished, and the configuration."""
    if (run / RECORD_FILE).is_file():
        text = (run / RECORD_FILE).read_text(encoding="utf-8")
        Record.from_json(text)
        record: dict[str, Any] = json.loads(text)
        return record, record["config"]
    if not (run / CONFIG_FILE).is_file():
        return None, None
    config = yaml_config(run / CONFIG_FILE)
    return None, config


def yaml_config(path: Path) -> dict[str, Any]:
    """The configuration in a ``config.yaml``. Raises RecordError if the file is not one."""
    config = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(config, dict):
        raise RecordError(f"{path} holds no configuration")
    return {str(name): value for name, value in config.items()}


def _recorded_contents(run: Path) -> dict[str, str]:
    file = run / CONTENTS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _contents(config: Config, places: Config) -> dict[str, str]:
    """Digests of the contents on which the baseline depends, from the present paths of the files.

    A missing file is identified by its name: the run has a key of its own. The sources of user methods are left out,
    because their content at the time of the run is unknown.
    """
    moved = {
        **config,
        "data": _placed(config, "data", places),
        "baseline": _placed(config, "baseline", places),
    }
    unknown = {}
    if "path" in moved["baseline"] and not Path(str(moved["baseline"]["path"])).expanduser().is_file():
        unknown["baseline.path"] = f"unknown: {Path(str(moved['baseline'].pop('path'))).name}"
    root = moved["data"].get("root")
    if root is not None and not Path(str(root)).expanduser().is_dir():
        unknown["data.root"] = f"unknown: {Path(str(root)).name}"
    found = {**content_digests(moved), **unknown}
    return {name: value for name, value in found.items() if name.partition(".")[0] in OF_THE_BASELINE}


def _placed(config: Config, group: str, places: Config) -> dict[str, Any]:
    moved = {name.partition(".")[2]: value for name, value in places.items() if name.startswith(f"{group}.")}
    return {name: moved.get(name, value) for name, value in config[group].items()}


@contextmanager
def _not_at_work(run: Path, is_finished: bool) -> Iterator[None]:
    """Raises UserError if a process works on the run at this moment."""
    if is_finished:
        yield
        return
    try:
        with FileLock(run / LOCK_FILE, timeout=0):
            yield
    except Timeout as error:
        raise UserError("a process works on it; migrate it afterwards") from error


def _rewrite(run: Path, record: dict[str, Any] | None, config: Config, contents: Config, key: str) -> None:
    if record is not None:
        named = {place: class_name(target) for place, target in classes(config).items()}
        record = {
            **record,
            "key": key,
            "config": config,
            "classes": named,
            "contents": contents,
            "key_schema": KEY_SCHEMA,
        }
        write_atomically(run / RECORD_FILE, json.dumps(with_digest(record), indent=2) + "\n")
    if (run / FAILURE_FILE).is_file():
        failure = json.loads((run / FAILURE_FILE).read_text(encoding="utf-8"))
        write_atomically(run / FAILURE_FILE, json.dumps({**failure, "key": key}, indent=2) + "\n")
    if (run / CONFIG_FILE).is_file():
        write_atomically(run / CONTENTS_FILE, json.dumps(contents, indent=2) + "\n")
        write_atomically(run / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def _rename_baseline(store: Path, config: Config, present: Config, contents: Config, places: Config) -> None:
    """Rename the stored baseline of a run of the first key schema to its present key."""
    before, now = store / _first_baseline_key(config, places), store / baseline_key(present, contents)
    if before.is_dir() and not now.exists():
        before.rename(now)


def _first_baseline_key(config: Config, places: Config) -> str:
    """The key of a baseline by the rules of key schema 1."""
    groups = {name: _copied(config[name]) for name in OF_THE_BASELINE if name in config}
    for name in FIRST_WITHOUT_EFFECT:
        group, _, key = name.partition(".")
        groups[group].pop(key, None)
    for name, neutral in FIRST_NEUTRAL.items():
        group, _, key = name.rpartition(".")
        node = groups[group] if group else groups
        if node.get(key, neutral) == neutral:
            node.pop(key, None)
    if "path" in groups["baseline"]:
        digests = _contents(config, places)
        groups["baseline"]["path"] = digests["baseline.path"]
    if groups["data"]["_target_"] in FIRST_PUBLISHED:
        groups["data"].pop("root")
    elif "root" in groups["data"]:
        groups["data"]["root"] = str(Path(groups["data"]["root"]).expanduser().resolve())
    return digest(groups)


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
