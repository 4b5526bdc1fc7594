"""Networks of torchvision, pytorchcv, segmentation-models-pytorch, transformers, MONAI, spandrel and ultralytics.

Each has random weights and, where it has BatchNorm, statistics of its inputs. In a process of its own, with limits of
time and memory, it is analysed, 30 % of every group is removed, and the pruned network has to: return outputs of the
same shapes, equal the masked network (exact groups), do a training step, be bit-identical after saving and loading, run
on another input size, and equal the masked network when all blocks that are offered are dropped. Afterwards
torch-pruning removes 30 % of every group of the same networks.

    pip install "prunelab[networks]"
    OMP_NUM_THREADS=1 python experiments/benchmarks/networks.py                   # all that have no line in the record
    OMP_NUM_THREADS=1 python experiments/benchmarks/networks.py --only yolo raft   # names that contain a word, again
    OMP_NUM_THREADS=1 python experiments/benchmarks/networks.py --failed           # those that were not right, again
    python experiments/benchmarks/networks.py --table                              # the section of README.md

Each network's line is appended to records/networks.jsonl when it is finished, so that an interrupted run continues.
ultralytics (AGPL-3.0) is part of it only if it is installed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from limited import collected
from listed import entries
from listed.entry import Entry
from network_table import section
from network_trial import trial, verdict, with_torch_pruning
from timing import machine

from prunelab.records.atomic import write_atomically

HERE = Path(__file__).parent
RECORD = HERE / "records" / "networks.jsonl"
README = HERE / "README.md"
SECONDS = 240
SECONDS_OF_TORCH_PRUNING = 20
"""Of processor time; torch-pruning does one of the many steps of the other."""
Key = tuple[str, str]


def rows() -> dict[Key, dict[str, Any]]:
    """The lines of the record."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return {(row["package"], row["network"]): row for row in map(json.loads, lines)}


def store(row: dict[str, Any]) -> None:
    """Append ``row`` to the record, or replace the line of this network."""
    found = rows()
    found[row["package"], row["network"]] = row
    write_atomically(RECORD, "".join(json.dumps(each) + "\n" for each in found.values()))


def measure(entry: Entry, versions: dict[str, str]) -> dict[str, Any]:
    """The row of one network, without torch-pruning."""
    row = {"package": entry.package, "network": entry.name} | collected(partial(trial, entry), SECONDS)
    return row | {"verdict": verdict(row), "versions": versions}


def show(row: dict[str, Any]) -> None:
    """One line per network."""
    kept = row.get("params_kept")
    print(
        f"{row['package'][:12]:12s} {row['network'][:36]:36s} {row.get('analyze_processor_seconds', 0):6.2f} s "
        f"{'' if kept is None else f'{kept:.3f}':>5s} {row.get('blocks', 0):3d} blocks  {row['verdict']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="words: networks whose name or package contains one")
    parser.add_argument("--failed", action="store_true", help="networks that were not right, again")
    parser.add_argument("--table", action="store_true", help="write the section of README.md and stop")
    arguments = parser.parse_args()
    if arguments.table:
        write_section()
        return
    warnings.filterwarnings("ignore")
    found, missing = entries()
    print(
        f"{len(found)} networks" + (f"; not installed: {', '.join(missing)}" if missing else ""), flush=True
    )
    versions = machine("torch", "torchvision", "timm", "torch-pruning")["versions"]
    done = rows()
    for entry in found:
        key = entry.package, entry.name
        if arguments.only:
            wanted = any(word in " ".join(key) for word in arguments.only)
        else:
            wanted = key not in done or (arguments.failed and done[key]["verdict"] != "right")
        if wanted:
            row = measure(entry, versions)
            store(row | {name: value for name, value in done.get(key, {}).items() if name == "torch_pruning"})
            show(row)
    for entry in found:
        row = rows().get((entry.package, entry.name))
        if row is not None and "torch_pruning" not in row:
            theirs = collected(partial(with_torch_pruning, entry), SECONDS_OF_TORCH_PRUNING)
            store(row | {"torch_pruning": theirs})
            print(f"{entry.package[:12]:12s} {entry.name[:36]:36s} torch-pruning: {theirs}", flush=True)


def write_section() -> None:
    """Replace the generated section of README.md."""
    start, end = "<!-- networks: begin -->\n", "<!-- networks: end -->\n"
    before, _, rest = README.read_text().partition(start)
    after = rest.partition(end)[2]
    README.write_text(before + start + section(list(rows().values())) + end + after)


if __name__ == "__main__":
    main()
