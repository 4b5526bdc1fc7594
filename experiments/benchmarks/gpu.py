"""How fast is prunelab on a GPU: training, scoring, ranks, candidate networks, and the latency of pruned networks?

    python experiments/benchmarks/gpu.py                            # all parts that the record of this GPU lacks
    python experiments/benchmarks/gpu.py --parts training scoring   # only these parts; --again: also recorded rows
    python experiments/benchmarks/gpu.py --quick                    # a test with few images; nothing is written

There is one record for each GPU, records/gpu_<name of the GPU>.json. It is written after each row, so an interrupted
benchmark continues with the missing rows. ``machines`` contains the versions of each session that measured a row.

ceilings  Operations per second of a bfloat16 matrix product of 8192 x 8192 x 8192 and bytes per second of a copy: the
          speed of the GPU, with which the other results are compared.
training  Images per second of prunelab's own ``fit`` and of a plain PyTorch loop with the same network, batches,
          precision, memory order, optimizer and compilation; ResNet-56 on images of 32x32 and ResNet-50 on images of
          224x224. The fraction of the peak counts three forward passes for each image (forward, and two products
          backward).
scoring   Each criterion as a multiple of a forward pass over the same images in float32, and the peak of memory.
ranks     Milliseconds for the ranks of a batch of feature maps, computed by hrank and by ``matrix_rank``.
eagleeye  Candidates that are judged per second.
latency   Milliseconds of ResNet-50, full and with half the FLOPs at widths that are multiples of 1, 8, 16 and 32.

Weights and images are random. Times are medians of times between events on the device, or of wall-clock times that end
with a synchronisation.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_networks import eagleeye, latency, ranks, scoring
from gpu_timing import Row, device_milliseconds
from gpu_training import training
from timing import machine

from prunelab.steps.environment import git_state

RECORDS = Path(__file__).parent / "records"
PACKAGES = ("torch", "pytorch-lightning", "timm", "torchmetrics", "numpy", "prunelab")
SIDE = 8192


def ceilings(done: Container[str], quick: bool) -> Iterator[Row]:
    """The speed of the GPU in a large matrix product and in a large copy."""
    side = SIDE // 8 if quick else SIDE
    if "product" not in done:
        left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        product_ms = device_milliseconds(lambda: left @ right)
        yield "product", {"bf16_tflops": 2 * side**3 / product_ms / 1e9, "side": side}
    if "copy" not in done:
        source = torch.randn(side * side * 16, device="cuda")
        target = torch.empty_like(source)
        copy_ms = device_milliseconds(lambda: target.copy_(source))
        yield "copy", {"gb_per_s": 2 * source.nbytes / copy_ms / 1e6, "bytes": source.nbytes}


PARTS: dict[str, Callable[[Container[str], bool], Iterator[Row]]] = {
    "ceilings": ceilings,
    "training": training,
    "scoring": scoring,
    "ranks": ranks,
    "eagleeye": eagleeye,
    "latency": latency,
}


def card() -> dict[str, Any]:
    """The name of the GPU, and the versions of its software."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": list(torch.cuda.get_device_capability(0)),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--again", action="store_true", help="measure what the record has as well")
    parser.add_argument("--quick", action="store_true", help="few images; nothing is written")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("No CUDA GPU: nothing is measured.")
        return
    name = re.sub(r"\W+", "_", card()["name"].lower()).strip("_")
    path: Path = arguments.records / f"gpu_{name}.json"
    record = json.loads(path.read_text()) if path.exists() and not arguments.quick else {}
    record["card"] = card()
    machines = record.setdefault("machines", [])  # each row contains the number of its machine
    machines.append({**machine(*PACKAGES), "revision": git_state().revision})
    for part in [each for each in PARTS if each in arguments.parts]:
        rows = record.setdefault(part, {})
        done = () if arguments.again else tuple(rows)
        for name, row in PARTS[part](done, arguments.quick):
            rows[name] = {**row, "machine": len(machines) - 1}
            print(f"{part}: {name}: {row}", flush=True)
            if not arguments.quick:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"Everything is in {path}." if not arguments.quick else "A trial: nothing was written.")


if __name__ == "__main__":
    main()
