"""The end of a console script: its exit code, one message for an error, a traceback on request."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from prunelab.records.reason import reason

TRACEBACK_FLAG = "--traceback"
TRACEBACK_VARIABLE = "PRUNELAB_TRACEBACK"

FAILED = 1
INTERRUPTED = 130
TERMINATED = 143
"""128 + SIGINT and 128 + SIGTERM, the convention of shells."""


def exit_code(program: str, work: Callable[[], int]) -> int:
    """The exit code of ``work``; an exception becomes a message on stderr and the corresponding exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        return _stopped(program, INTERRUPTED)
    except SystemExit as ending:
        if ending.code != TERMINATED:
            raise
        return _stopped(program, TERMINATED)
    except Exception as error:
        if traceback_wanted():
            traceback.print_exc()
        print(f"{program}: {reason(error)}", file=sys.stderr)
        return FAILED


def _stopped(program: str, code: int) -> int:
    print(f"\n{program}: stopped. The same command continues from here.", file=sys.stderr)
    return code


def is_first_process() -> bool:
    """Whether this is rank zero of the processes that Lightning or Slurm started for one run. It prints messages."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def is_one_of_several() -> bool:
    """Whether this is one of several processes of a run, which must decide together whether the run is finished."""
    return any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))


def take_traceback_flag(arguments: list[str]) -> list[str]:
    """``arguments`` without --traceback, which is stored in the environment for this process and its children."""
    if TRACEBACK_FLAG in arguments:
        os.environ[TRACEBACK_VARIABLE] = "1"
    return [argument for argument in arguments if argument != TRACEBACK_FLAG]


def traceback_wanted() -> bool:
    """Whether the user requested tracebacks, by --traceback or PRUNELAB_TRACEBACK=1."""
    return os.environ.get(TRACEBACK_VARIABLE) == "1"
