"""SearchFile: search.csv in the folder of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prunelab.records.atomic import Write, set_aside, write_atomically
from prunelab.records.evaluations import Evaluation, evaluations_text, parse_evaluations
from prunelab.records.fields import RecordError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchFile:
    """A CSV file with a row for each evaluation of the searches of a run."""

    path: Path
    put: Write = field(default=write_atomically)

    def write(self, phase: str, evaluations: Sequence[Evaluation]) -> None:
        """Make ``evaluations`` those of ``phase``; other phases are unchanged."""
        self.put(self.path, evaluations_text({**self._read(), phase: evaluations}))

    def _read(self) -> dict[str, tuple[Evaluation, ...]]:
        """The evaluations of each phase. A damaged file is set aside, with a warning, and counts as empty."""
        if not self.path.is_file():
            return {}
        try:
            return parse_evaluations(self.path.read_text(encoding="utf-8"))
        except (RecordError, UnicodeDecodeError) as error:
            log.warning(
                "The evaluations %s are damaged (%s). The file was renamed to %s, and is written again; those of "
                "earlier rounds are missing.",
                self.path,
                error,
                set_aside(self.path).name,
            )
            return {}
