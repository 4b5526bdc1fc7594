"""How fast is prunelab on a GPU: training, scoring, ranks, candidate networks, and the latency of pruned networks?

    python experiments/benchmarks/gpu.py                            # all rows that the card's record lacks
    python experiments/benchmarks/gpu.py --minutes 10               # those that fit into 10 minutes
    python experiments/benchmarks/gpu.py --parts training scoring   # of these parts; --again: also what it has
    python experiments/benchmarks/gpu.py --quick [--device cpu]     # a trial of the code with small networks

One record for each card: records/gpu_<name of the card>.json, written after each row, so that an interrupted benchmark
continues with the rows that are missing. The rows of most value of all parts (``FIRST``) come first. ``machines`` holds
the versions of each session that measured some. A row that fails, for example because memory is exhausted, is listed
under ``failed`` with the reason; the other rows are measured, and the exit status is 1. The same command tries it
again. A trial writes a record only with --records.

ceilings  Operations per second of a bfloat16 matrix product of 8192 x 8192 x 8192 and bytes per second of a copy: the
          speed of the GPU, with which the other results are compared.
training  Images per second of prunelab's own ``fit`` and of a plain PyTorch loop with the same network, batches,
          precision, memory order, optimizer and compilation; ResNet-56 on images of 32x32 and ResNet-50 on images of
          224x224. The fraction of the peak counts three forward passes for each image (forward, and two products
          backward).
together  Images per second of 1, 2 and 4 processes that train ResNet-56 at the same time (``trainer=gpu
          trainer.compile=reduce-overhead``), all of them together: how many runs at a time are fastest on this card.
scoring   Each criterion as a multiple of a forward pass over the same images in float32, and the peak of memory; on
          ResNet-50 hrank scores 64 images, as it computes the rank of each of 26,000 maps of an image.
ranks     Milliseconds for the ranks of a batch of feature maps, computed by hrank and by ``matrix_rank``.
eagleeye  Candidates that are judged per second.
latency   Milliseconds of ResNet-50, full and with half the FLOPs at widths that are multiples of 1, 8, 16 and 32.

Weights and images are random. Times are medians of times between events on the device, or of wall-clock times that end
with a synchronisation.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_networks import eagleeye, latency, loaded, ranks, scoring
from gpu_timing import Figures, Place, Row
from gpu_training import ready, together, training
from timing import machine

from prunelab.records.atomic import write_atomically
from prunelab.steps.environment import git_state

RECORDS = Path(__file__).parent / "records"
PACKAGES = ("torch", "pytorch-lightning", "timm", "torchmetrics", "numpy", "prunelab")
SIDE = 8192
REASON_LENGTH = 400
"""Characters of the reason for which a row failed."""

FIRST: dict[str, tuple[str, ...]] = {
    "ceilings": ("product", "copy"),
    "training": (
        "cifar_resnet56, trainer=gpu",
        "resnet50, trainer=gpu",
        "cifar_resnet56, trainer=gpu trainer.compile=reduce-overhead",
    ),
    "together": (),
    "scoring": ("resnet50, taylor", "resnet50, apoz", "resnet50, pfa", "cifar_resnet56, hrank"),
    "ranks": ("2048 of 56x56", "4096 of 28x28"),
    "eagleeye": ("cifar_resnet56, workers=1",),
    "latency": (
        "full",
        "flops=0.5, multiples of 1",
        "flops=0.5, multiples of 8",
        "flops=0.5, multiples of 32",
    ),
}
"""About 8 minutes on an H100."""


def ceilings(done: Container[str], place: Place) -> Iterator[Row]:
    """The rates of the card in a large matrix product and in a large copy."""
    side = SIDE // 16 if place.quick else SIDE
    for name, measured in {"product": _product, "copy": _copy}.items():
        if name not in done:
            yield name, partial(measured, side, place)


def _product(side: int, place: Place) -> Figures:
    left, right = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    product_ms = place.milliseconds(lambda: left @ right)
    return {"bf16_tflops": 2 * side**3 / product_ms / 1e9, "side": side}


def _copy(side: int, place: Place) -> Figures:
    free = torch.cuda.mem_get_info(place.device)[0] if place.on_gpu else 2**30
    source = torch.randn(min(side * side * 16, free // 16), device=place.device)
    target = torch.empty_like(source)
    copy_ms = place.milliseconds(lambda: target.copy_(source))
    return {"gb_per_s": 2 * source.nbytes / copy_ms / 1e6, "bytes": source.nbytes}


PARTS: dict[str, Callable[[Container[str], Place], Iterator[Row]]] = {
    "ceilings": ceilings,
    "training": training,
    "together": together,
    "scoring": scoring,
    "ranks": ranks,
    "eagleeye": eagleeye,
    "latency": latency,
}


@dataclass(frozen=True)
class Skipped(Container[str]):
    """The rows that a part leaves out: those in the record, and with ``only`` all others but these."""

    done: Container[str]
    only: Container[str] | None

    def __contains__(self, name: object) -> bool:
        return name in self.done or (self.only is not None and name not in self.only)


def card(device: torch.device) -> dict[str, Any]:
    """The name of the GPU, its driver and the versions of CUDA and torch."""
    if device.type == "cpu":
        return {"name": "a trial on a processor"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": list(torch.cuda.get_device_capability(device)),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def measure(record: dict[str, Any], arguments: argparse.Namespace, write: Callable[[], None]) -> list[str]:
    """Add the missing rows to ``record`` and call ``write`` after each. Returns the names of the rows that failed."""
    place = Place(torch.device(arguments.device), arguments.quick)
    machines = record.setdefault("machines", [])  # a row says on which of them it was measured
    machines.append({**machine(*PACKAGES), "revision": git_state().revision})
    here = len(machines) - 1
    parts = [part for part in PARTS if part in arguments.parts]
    before = {part: frozenset(() if arguments.again else record.get(part, ())) for part in parts}
    tried: set[tuple[str, str]] = set()
    failed: list[str] = []
    end = time.monotonic() + 60 * arguments.minutes
    for only, part in [*((FIRST[part], part) for part in parts), *((None, part) for part in parts)]:
        done = before[part] | {name for other, name in tried if other == part}
        for name, work in PARTS[part](Skipped(done, only), place):
            tried.add((part, name))
            figures, reason = attempt(work)
            if figures is not None:
                record.setdefault(part, {})[name] = {**figures, "machine": here}
                forget_failure(record, part, name)
            else:
                failures = record.setdefault("failed", {}).setdefault(part, {})
                failures[name] = {"reason": reason, "machine": here}
                failed.append(f"{part}: {name}")
            print(f"{part}: {name}: {figures or f'FAILED: {reason}'}", flush=True)
            write()
            if reason is not None and not place.recovers():
                print("The GPU cannot be used by this process any more. The same command continues.")
                return failed
            if time.monotonic() > end:
                print("The time is over; the same command continues.")
                return failed
    return failed


def attempt(work: Callable[[], Figures]) -> tuple[Figures | None, str | None]:
    """The figures of ``work``, or the reason for which there are none; the traceback is printed.

    Networks and images that rows share are released after a failure: its work may have been left half done in them.
    """
    try:
        return work(), None
    except Exception as error:  # recorded: the rows after it are measured all the same
        traceback.print_exc()
        message = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {message}"[:REASON_LENGTH]
    for shared in (loaded, ready):
        shared.cache_clear()
    torch.compiler.reset()
    return None, reason


def forget_failure(record: dict[str, Any], part: str, name: str) -> None:
    """Remove a row that has been measured from the failures."""
    failed = record.get("failed", {})
    failed.get(part, {}).pop(name, None)
    if not failed.get(part, True):
        del failed[part]
    if "failed" in record and not failed:
        del record["failed"]


def main() -> int:
    """Measure the rows of the arguments. Returns the exit status: 1 if rows failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--again", action="store_true", help="measure what the record has as well")
    parser.add_argument("--quick", action="store_true", help="a trial with small networks and few images")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no row after this time")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: for a trial only")
    parser.add_argument("--records", type=Path, help=f"folder of the records ({RECORDS}; a trial: none)")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("--device cpu is for a trial: add --quick")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA GPU: nothing is measured.")
        return 0
    found = card(torch.device(arguments.device))
    folder: Path | None = arguments.records or (None if arguments.quick else RECORDS)
    path = (
        None if folder is None else folder / f"gpu_{re.sub(r'[^a-z0-9]+', '_', found['name'].lower())}.json"
    )
    record = json.loads(path.read_text()) if path is not None and path.exists() else {}
    record["card"] = found

    def write() -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(record, indent=1) + "\n")

    failed = measure(record, arguments, write)
    print(f"Everything is in {path}." if path is not None else "A trial: nothing was written.")
    if failed:
        print(f"{len(failed)} rows failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
