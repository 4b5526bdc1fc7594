"""SearchState: the evaluations of a search, kept on disk so that a killed search continues."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from prunelab.distributed.ranks import from_rank_zero
from prunelab.methods.search.widths import Candidate
from prunelab.records.atomic import Write, set_aside, write_atomically

STATE_FILE = "search.pt"
DIGITS = 64
"""The file begins with the SHA-256 digest of the rest, in hexadecimal digits."""

log = logging.getLogger(__name__)


class SearchState:
    """The history of a search and the candidates without a score.

    ``folder``: where the state is kept (None: in memory only). The file has a digest and is read with
    ``weights_only=True``, so that it cannot run code. ``write`` writes it; in a run it checks the claim on the folder.

    Attributes:
        history: candidate -> score.
        pending: candidates that ``ask`` returned and that are not scored yet.
    """

    def __init__(self, folder: Path | None, write: Write = write_atomically) -> None:
        self._write = write
        self.path = None if folder is None else folder / STATE_FILE
        self.history: dict[Candidate, float] = {}
        self.pending: list[Candidate] = []

    def load(self) -> dict[str, Any] | None:
        """Restore history and pending candidates; returns the state of the method, or None without a file.

        A damaged file is renamed, with a warning, and the search starts again.
        """
        content = from_rank_zero(self._read)
        if content is None:
            return None
        self.history, self.pending, state = _parsed(content)
        return state

    def save(self, method: dict[str, Any]) -> None:
        """Write everything, on rank zero; ``method`` is the state of the method."""
        if self.path is None:
            return
        path = self.path
        content = io.BytesIO()
        state = {
            "history": [(_key(each), score) for each, score in self.history.items()],
            "pending": [_key(each) for each in self.pending],
            "method": method,
        }
        torch.save(state, content)
        digest = hashlib.sha256(content.getvalue()).hexdigest().encode()

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, digest + content.getvalue())

        from_rank_zero(write)

    def _read(self) -> bytes | None:
        """The content of the file after its digest; None if there is no file or it is damaged."""
        if self.path is None or not self.path.is_file():
            return None
        file = self.path.read_bytes()
        digest, content = file[:DIGITS], file[DIGITS:]
        try:
            if hashlib.sha256(content).hexdigest().encode() != digest:
                raise ValueError("its content does not match its digest")
            _parsed(content)
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "The search state %s is damaged (%s: %s). It was renamed to %s, and the search starts again.",
                self.path,
                type(error).__name__,
                str(error).partition("\n")[0],
                set_aside(self.path).name,
            )
            return None
        return content


def _parsed(content: bytes) -> tuple[dict[Candidate, float], list[Candidate], dict[str, Any]]:
    """History, pending candidates and the state of the method. Raises errors of several types if it is damaged."""
    found = torch.load(io.BytesIO(content), weights_only=True)
    history = {_candidate(key): float(score) for key, score in found["history"]}
    return history, [_candidate(key) for key in found["pending"]], found["method"]


def _key(candidate: Candidate) -> tuple[list[int], list[str]]:
    return list(candidate.widths), list(candidate.dropped)


def _candidate(key: tuple[list[int], list[str]]) -> Candidate:
    widths, dropped = key
    return Candidate(tuple(int(width) for width in widths), tuple(str(name) for name in dropped))
