"""``prunelab-again``: repeat a recorded run, from the configuration in its record."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunelab.cli.config import dotted, references
from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, is_first_process, take_traceback_flag
from prunelab.cli.former_names import present_words
from prunelab.cli.trust import TRUST_FLAG, require_trusted
from prunelab.errors import UserError, nearest
from prunelab.records import Record, RecordError
from prunelab.records.folder import RECORD_FILE
from prunelab.records.known_keys import check_parts

SUFFIX = "-again"
"""Appended to the name of the study, so that the finished run in the old study is not used for the new one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_args(words)
    return exit_code("prunelab-again", lambda: _again(options.record, options.settings, options.trust))


def _again(path: Path, words: Sequence[str], trusted: Sequence[str]) -> int:
    before = recorded(path)
    require_trusted(before.config, trusted)
    check_parts(before.config)
    config = changed({**before.config, "study": f"{before.study}{SUFFIX}"}, words)
    # These import Lightning.
    from prunelab.cli.run import console_messages
    from prunelab.experiment import run

    with console_messages():
        outcome = run(config)
    if is_first_process():
        print("\n".join([*_compared(before, outcome.record), f"  {outcome.folder.path}"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prunelab-again",
        description="Repeat a recorded run with the configuration in its record, and compare the figures of both "
        "runs. The new run belongs to the study STUDY-again.",
        epilog="The record also holds the revision of prunelab and the versions of the libraries; figures are equal "
        "to the last digit only with the same versions on the same kind of machine. A record may come from another "
        "user: only classes of prunelab's own configuration are created, and no module is imported, unless "
        f"{TRUST_FLAG} allows it.",
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="a record.json, or the folder of a run")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings to change, such as data.root=FOLDER or trainer.accelerator=cpu",
    )
    parser.add_argument(
        TRUST_FLAG,
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module that the record may import (model.module, method.module) and whose "
        "classes it may create; can be given several times",
    )
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show the traceback of an error")
    return parser


def recorded(path: Path) -> Record:
    """The record in a file or in the folder of a run. Raises UserError if there is none that can be used."""
    file = path / RECORD_FILE if path.is_dir() else path
    if path.is_dir() and not file.exists() and (records := sorted(path.glob(f"*/{RECORD_FILE}"))):
        raise UserError(f"{path} is a study. Give one of its {len(records)} runs:\n{_listed(records)}")
    try:
        return Record.from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Give the record.json of a run.") from error
    except (RecordError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a usable record: {error}.") from error


def _listed(records: Sequence[Path]) -> str:
    """A line for each record: the run, and its folder."""
    lines = []
    for file in records:
        try:
            run = Record.from_json(file.read_text(encoding="utf-8"))
        except (OSError, RecordError, UnicodeDecodeError) as error:
            lines.append(f"  {file.parent}  (not a usable record: {error})")
            continue
        budget = f"{run.budget.resource}={run.budget.keep:g}"
        lines.append(f"  {file.parent}  {run.method}, {run.model}, {run.data}, {budget}, seed {run.seed}")
    return "\n".join(lines)


def changed(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """``config`` with the settings that ``words`` (KEY=VALUE) name set to their values.

    A resolved configuration holds some values several times (the seed is also data.seed and method.seed). When a
    setting changes, its copies change too, unless a word names them.

    Raises ``UserError`` for a word that is not KEY=VALUE, and for a key that the run did not have.
    """
    settings = OmegaConf.create(dict(config))
    words = present_words(words)
    named = {word.partition("=")[0] for word in words}
    followers = _copies(config) if words else {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is not understood. Write key=value, as in data.root=FOLDER.")
        with_it = [name for name, source in followers.items() if source == key and name not in named]
        _set(settings, key, word)
        for name in with_it:
            if OmegaConf.select(settings, name, default=settings) is not settings:
                _set(settings, name, f"{name}={value}")
    plain = OmegaConf.to_container(settings)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _copies(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a run that are copies of another setting, and the name of that one."""
    names = config.get("names")
    method = str(names.get("method")).partition(" (")[0] if isinstance(names, Mapping) else None
    # The name comes from the record and becomes a word of Hydra's command line.
    return references([f"method={method}"]) if re.fullmatch(r"\w+", str(method or "")) else {}


def _set(settings: DictConfig, key: str, word: str) -> None:
    """Set one value. Raises UserError if there is no such ``key``, or if it holds others."""
    try:
        before = OmegaConf.select(settings, key, default=settings)
        if before is settings:
            known = OmegaConf.to_container(settings)
            assert isinstance(known, dict)
            raise UserError(f"The recorded run has no setting {key!r}. {nearest(key, dotted(known))}")
        settings.merge_with_dotlist([word])
    except OmegaConfBaseException as error:
        raise UserError(f"{word!r} cannot be set: {str(error).partition(chr(10))[0]}") from error
    if isinstance(before, DictConfig) and not isinstance(OmegaConf.select(settings, key), DictConfig):
        raise UserError(
            f"{word}: the {key} of a recorded run cannot be exchanged; set one of its keys with {key}.KEY=VALUE, or "
            "start another run with prunelab."
        )


def _compared(before: Record, now: Record) -> list[str]:
    """The figures of the record and of the new run in two columns."""
    pairs = [
        ("top-1, full", f"{before.baseline.top1:.2%}", f"{now.baseline.top1:.2%}"),
        ("top-1, pruned", f"{before.after_pruning.top1:.2%}", f"{now.after_pruning.top1:.2%}"),
        ("top-1, recovered", f"{before.pruned.top1:.2%}", f"{now.pruned.top1:.2%}"),
        ("FLOPs", f"{before.pruned.flops:,}", f"{now.pruned.flops:,}"),
        ("parameters", f"{before.pruned.params:,}", f"{now.pruned.params:,}"),
        ("plan", before.plan.digest[:12], now.plan.digest[:12]),
    ]
    title = f"{now.method} on {now.model}, {now.data}, seed {now.seed}: then and now"
    return [title, *(f"  {name:<18}{then:>14}  {new:>14}" for name, then, new in pairs)]


if __name__ == "__main__":
    main()
