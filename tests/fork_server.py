"""Starts the prunelab command and other programs in forks of one process, which avoids the imports of each start.

Not a test by itself: tests/forks.py starts it, writes one JSON object a line to it, and reads one back:

    {"start": [words], "program": file or null, "folder": ..., "output": ..., "die_in_write": n or null}
        ->  {"pid": ...}
    {"wait": pid}  ->  {"status": exit code, or minus the signal that ended it}

Every start is the leader of a process group, which contains its workers.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

IMPORTED_LATE = (
    "loky.process_executor", "prunelab.cli.local", "prunelab.experiment", "scipy.optimize",
    "torchmetrics.classification", "torchvision.io", "torchvision.transforms.v2",
)  # fmt: skip


def serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            answer = {"pid": start(asked)}
        else:
            _, status = os.waitpid(asked["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        print(json.dumps(answer), flush=True)


def start(asked: dict[str, Any]) -> int:
    """The process id of a fork that runs the command, or a program if one is named."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(asked["folder"])
    if asked["die_in_write"] is not None:
        die_in_write(asked["die_in_write"])
    code = 99
    try:
        code = run(asked["program"], asked["start"])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 98
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def run(program: str | None, words: list[str]) -> int:
    sys.argv = [program or "prunelab", *words]
    if program is None:
        from prunelab.cli.run import main

        main()
    else:
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    return 0


def die_in_write(number: int) -> None:
    """All processes of this start die when the ``number``th file or folder reaches the disk; a file is cut short."""
    sync, left = os.fsync, number

    def deadly(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.killpg(os.getpgrp(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = deadly


def prepare() -> None:
    """Import the modules of a start; workers are forks as well, and timing is short."""
    torch.set_num_threads(1)
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    from prunelab.cli.local import launch
    from prunelab.evaluation import forward_times
    from prunelab.steps import task

    launch.START_METHOD = "fork"
    task.forward_times = partial(_at_once, forward_times)


def _at_once(measure: Callable[..., Any], *arguments: Any) -> Any:
    """The same times from the fewest possible passes."""
    networks, image_shape, batch_size, device, memory_format, *_ = arguments
    return measure(networks, image_shape, batch_size, device, memory_format, seconds=0.0)


if __name__ == "__main__":
    prepare()
    serve()
