"""SearchState: the evaluations of a search, kept on disk so that a killed search continues."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from prunelab.distributed.ranks import from_rank_zero
from prunelab.errors import UserError
from prunelab.methods.search.widths import Candidate
from prunelab.records.atomic import write_atomically

STATE_FILE = "search.pt"


class SearchState:
    """The history of a search and the candidates that are being judged.

    ``folder``: where the state is kept (None: in memory only). The file is read with ``weights_only=True``, so it
    cannot run code.

    Attributes:
        history: candidate -> score.
        pending: candidates that ``ask`` returned and that have no score yet.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / STATE_FILE
        self.history: dict[Candidate, float] = {}
        self.pending: list[Candidate] = []

    def load(self) -> dict[str, Any] | None:
        """Restore history and pending candidates; returns the state of the method, or None without a file.

        Raises:
            UserError: the file is damaged.
        """
        content = from_rank_zero(self._read)
        if content is None:
            return None
        try:
            found = torch.load(io.BytesIO(content), weights_only=True)
            self.history = {_candidate(key): float(score) for key, score in found["history"]}
            self.pending = [_candidate(key) for key in found["pending"]]
            state: dict[str, Any] = found["method"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"The search state {self.path} is damaged ({type(error).__name__}). Delete the file to start "
                "the search again."
            ) from error
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

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue())

        from_rank_zero(write)

    def _read(self) -> bytes | None:
        return self.path.read_bytes() if self.path is not None and self.path.is_file() else None


def _key(candidate: Candidate) -> tuple[list[int], list[str]]:
    return list(candidate.widths), list(candidate.dropped)


def _candidate(key: tuple[list[int], list[str]]) -> Candidate:
    widths, dropped = key
    return Candidate(tuple(int(width) for width in widths), tuple(str(name) for name in dropped))
