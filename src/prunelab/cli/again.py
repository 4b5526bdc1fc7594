"""``prunelab-again``: make a recorded run again, from the configuration in its record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunelab.cli.config import dotted, references
from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, is_first_process, take_traceback_flag
from prunelab.errors import UserError, nearest
from prunelab.records import Record, RecordError
from prunelab.records.folder import RECORD_FILE

SUFFIX = "-again"
"""What the study of the new run is called after: its record must not be found finished in the old one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_args(words)
    return exit_code("prunelab-again", lambda: _again(options.record, options.settings))


def _again(path: Path, words: Sequence[str]) -> int:
    before = _record(path)
    config = changed({**before.config, "study": f"{before.study}{SUFFIX}"}, words)
    # These bring Lightning.
    from prunelab.cli.run import speaking
    from prunelab.experiment import run

    with speaking():
        outcome = run(config)
    if is_first_process():
        print("\n".join([*_compared(before, outcome.record), f"  {outcome.folder.path}"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prunelab-again",
        description="Make a recorded run again, with the configuration in its record, and say what came out then "
        "and now. The new run belongs to the study STUDY-again.",
        epilog="The record also says which revision of prunelab and which versions of libraries made it; figures "
        "are the same to the last digit only with the same ones on the same kind of machine.",
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="a record.json, or the folder of a run")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings to change, such as data.root=FOLDER or trainer.accelerator=cpu",
    )
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show where in the program an error arose")
    return parser


def _record(path: Path) -> Record:
    file = path / RECORD_FILE if path.is_dir() else path
    try:
        return Record.from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Give the record.json of a run.") from error
    except (RecordError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no record that can be used: {error}.") from error


def changed(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """``config`` with the settings that ``words`` (KEY=VALUE) name set to their values.

    A resolved configuration has some values several times (the seed is also data.seed and method.seed): a setting that
    others stand for takes these with it, unless a word names them too.

    Raises ``UserError`` for a word that is none, and for a key that the run did not have.
    """
    settings = OmegaConf.create(dict(config))
    named = {word.partition("=")[0] for word in words}
    method = config.get("names", {}).get("method")
    followers = references([f"method={method}"]) if words and method else {}
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


def _set(settings: DictConfig, key: str, word: str) -> None:
    """Do what ``word`` says. Raises UserError if there is no such ``key``, or if it holds others."""
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
            f"{word}: a recorded run keeps its {key}; set one of its keys with {key}.KEY=VALUE, or do another run with "
            "prunelab."
        )


def _compared(before: Record, now: Record) -> list[str]:
    """The figures of the record and of the new run, side by side."""
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
