"""Are latency budgets met? Measured speed-up against what was asked, and the FLOPs that are kept.

    OMP_NUM_THREADS=1 python experiments/benchmarks/latency.py
    OMP_NUM_THREADS=1 python experiments/benchmarks/latency.py --networks resnet18 --runtimes eager --keep 0.5

Networks of timm with random weights, images of 224 x 224, one image, one thread, L1 norms, global allocation. A row is
written to experiments/benchmarks/records/latency.json as soon as it is measured; rows that are there are not repeated.

For ``--by-hand`` budgets, a FLOPs budget with the same criterion and divisor is tuned until its network has
the same measured latency; the FLOPs that both keep are then compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timing import machine
from torch import nn

import prunelab
from prunelab.errors import UserError
from prunelab.evaluation import LatencyModel
from prunelab.evaluation.latency_rounds import TOLERANCE
from prunelab.methods.latency_budget import decide
from prunelab.records.atomic import write_atomically

RECORD = Path(__file__).parent / "records" / "latency.json"
NETWORKS = ("resnet18", "mobilenetv2_100", "resnet50", "vgg16")
RUNTIMES = ("onnxruntime", "eager")
KEEP = (0.7, 0.5, 0.3)
IMAGE = (1, 3, 224, 224)
TRIALS = 5
"""The most FLOPs budgets that are tried by hand."""

AIM = 0.95
"""The least measured speed-up, as a fraction of what was asked."""


def rows_of(
    name: str, runtime: str, keeps: list[float], by_hand: list[float], tables: Path
) -> Callable[[], Any]:
    """A generator of the rows of one network on one runtime."""

    def generate() -> Any:
        torch.manual_seed(0)
        network, images = timm.create_model(name).eval(), torch.zeros(IMAGE)
        target = prunelab.Target(runtime=runtime, tables=str(tables))  # type: ignore[arg-type]
        latency = LatencyModel.of(network, prunelab.analyze(network, images), images, target)
        for keep in keeps:
            row = {"network": name, "runtime": runtime, "asked": keep}
            start = time.process_time(), time.perf_counter()
            found = budgeted(network, images, latency, keep)
            row |= found | {
                "processor_s": time.process_time() - start[0],
                "wall_s": time.perf_counter() - start[1],
                "layers_in_table": len(latency.table.entries),
            }
            if keep in by_hand and "measured" in found:
                row["by_hand"] = tuned(network, images, latency, found["measured"], found["flops"])
            yield row
        latency.table.save()

    return generate


def budgeted(network: nn.Module, images: torch.Tensor, latency: LatencyModel, keep: float) -> dict[str, Any]:
    """What a latency budget leads to, or its error."""
    budget = prunelab.Budget(latency=keep, target=latency.target)
    method = prunelab.ImportanceMethod(prunelab.L1Norm(), budget)
    context = method.context(network, images, latency=latency, name="network")
    try:
        plan, summary = decide(method, context)
    except UserError as error:
        return {"error": str(error)}
    assert summary is not None
    cost = context.graph.cost
    return {
        "predicted": summary.predicted,
        "measured": summary.measured,
        "speedup_of_asked": keep / summary.measured,
        "rounds": [[each.aim, each.predicted, each.measured] for each in summary.rounds],
        "turns": summary.turns,
        "full_ms": [summary.full.p50_ms, summary.full.p90_ms],
        "pruned_ms": [summary.pruned.p50_ms, summary.pruned.p90_ms],
        "wall_full_ms": [summary.full.wall_p50_ms, summary.full.wall_p90_ms],
        "wall_pruned_ms": [summary.pruned.wall_p50_ms, summary.pruned.wall_p90_ms],
        "flops": cost.flops(plan) / cost.flops(),
        "params": cost.params(plan) / cost.params(),
    }


def tuned(
    network: nn.Module, images: torch.Tensor, latency: LatencyModel, wanted: float, first: float
) -> dict[str, Any]:
    """The FLOPs budget that leads to the measured latency ``wanted``, found by regula falsi from ``first``."""
    tried: list[tuple[float, float]] = []
    low, high = (0.0, 0.0), (1.0, 1.0)
    flops = first
    for _ in range(TRIALS):
        method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=flops), divisor=8)
        context = method.context(network, images)
        plan = method.decide(context)
        ratio = latency.compare(prunelab.apply(copy.deepcopy(network), plan)).ratio
        kept = context.graph.cost.flops(plan) / context.graph.cost.flops()
        tried.append((kept, ratio))
        if abs(ratio / wanted - 1) < 0.01:
            break
        low, high = ((kept, ratio), high) if ratio < wanted else (low, (kept, ratio))
        flops = low[0] + (high[0] - low[0]) * (wanted - low[1]) / (high[1] - low[1])
    best = min(tried, key=lambda each: abs(each[1] / wanted - 1))
    return {"flops": best[0], "measured": best[1], "trials": len(tried)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--keep", nargs="+", type=float, default=KEEP)
    parser.add_argument("--by-hand", nargs="*", type=float, default=[0.5], help="budgets that are compared")
    parser.add_argument(
        "--tables", type=Path, default=Path("outputs/latency"), help="folder of latency tables"
    )
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    record = json.loads(options.record.read_text()) if options.record.is_file() else {"rows": []}
    record |= {"machine": machine(), "tolerance": TOLERANCE, "aim": AIM}
    done = {(row["network"], row["runtime"], row["asked"]) for row in record["rows"]}
    for name in options.networks:
        for runtime in options.runtimes:
            keeps = [keep for keep in options.keep if (name, runtime, keep) not in done]
            if not keeps:
                continue
            for row in rows_of(name, runtime, keeps, options.by_hand, options.tables)():
                record["rows"].append(row)
                write_atomically(options.record, json.dumps(record, indent=1) + "\n")
                print(line(row), flush=True)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    head = f"| {row['network']} | {row['runtime']} | {row['asked']:g} |"
    if "error" in row:
        return f"{head} {row['error']} |"
    hand = row.get("by_hand")
    beside = f"{hand['flops']:.3f} at {hand['measured']:.3f}" if hand else ""
    (_, predicted, measured), times = row["rounds"][0], (row["full_ms"][0], row["pruned_ms"][0])
    return (
        f"{head} {row['measured']:.3f} | {row['speedup_of_asked']:.3f} | {len(row['rounds'])} | "
        f"{predicted / measured - 1:+.1%} | {times[0]:.1f} -> {times[1]:.1f} | "
        f"{row['flops']:.3f} | {beside} |"
    )


if __name__ == "__main__":
    main()
