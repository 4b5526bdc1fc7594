"""Prune one network of every timm family: removable parts, frozen groups with reasons, and whether masked == pruned.

For each family (a module of timm.models) the smallest member with a 3-channel input of at most 300 pixels is taken
(``--member 1``: the second smallest). Its BatchNorm statistics and affine parameters are randomised so that zeroing a
channel changes the output, 30 % of every group's channels are removed, and the pruned network is compared with the
masked one: with all groups (the default), and with ``analyze(exact=True)``, which does not prune groups that are
normalised over channels. The pruned network is also saved, loaded and compared.

    python experiments/benchmarks/families.py                     # all families, smallest members
    python experiments/benchmarks/families.py --member 1          # second smallest, up to 60 M parameters
    python experiments/benchmarks/families.py --only resnet vgg   # some families (nothing is written to records/)

Each network's row is stored in outputs/benchmarks until the program changes: an interrupted run continues, and several
may run at once (``--share 1/2`` and ``--share 2/2``). The run that finds all rows writes
experiments/benchmarks/records/families_<member>.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from family_member import TRUSTED, prune
from timm.models import _registry as registry

import prunelab

HERE = Path(__file__).parent
RECORDS = HERE / "records"
ROWS = HERE.parents[1] / "outputs" / "benchmarks"
LARGEST_INPUT = 300
LARGEST_MEMBER = 60_000_000
Member = tuple[int, str, tuple[int, ...]]


def families() -> dict[str, list[Member]]:
    """Family -> (parameters, name, input size) of its members, smallest first.

    Each is built once on the meta device; the list is stored in outputs/benchmarks.
    """
    path = ROWS / f"members_timm_{timm.__version__}.json"
    if not path.exists():
        ROWS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_members()))
    return {
        family: [tuple(member) for member in found] for family, found in json.loads(path.read_text()).items()
    }


def _members() -> dict[str, list[Member]]:
    found: dict[str, list[Member]] = defaultdict(list)
    for name in timm.list_models():
        if not registry._model_entrypoints[name].__module__.startswith("timm."):
            continue  # networks of prunelab
        config = timm.get_pretrained_cfg(name)
        size = tuple(config.input_size) if config else (3, 224, 224)
        if size[0] != 3 or max(size[1:]) > LARGEST_INPUT:
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found[registry._model_to_module[name]].append((parameters, name, size))
    return {family: sorted(members) for family, members in sorted(found.items())}


def chosen(number: int) -> dict[str, Member]:
    """The ``number``-th smallest member of each family that has one; only the smallest may have any size."""
    return {
        family: members[number]
        for family, members in families().items()
        if len(members) > number and (number == 0 or members[number][0] <= LARGEST_MEMBER)
    }


def program() -> str:
    """A digest of everything that can change a row."""
    package = Path(prunelab.__file__).parent
    sources = [
        HERE / "family_member.py",
        *sorted(package.glob("structure/**/*.py")),
        *sorted(package.glob("export/*.py")),
    ]
    content = b"".join(path.read_bytes() for path in sources)
    return hashlib.sha256(content + f"{timm.__version__} {torch.__version__}".encode()).hexdigest()[:12]


def row_of(family: str, member: Member, folder: Path) -> dict[str, Any]:
    """The row of one network, from ``folder`` if it exists."""
    path = folder / f"{family}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    _, name, size = member
    try:
        row = prune(family, name, size)
    except Exception as error:  # which families fail, and how, is a result of the benchmark
        first = (str(error).splitlines() or [""])[0]
        row = {"family": family, "model": name, "error": f"{type(error).__name__}: {first[:200]}"}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row))
    return row


HEADINGS = (
    f"{'family':26s} {'model':34s} {'filt':>4s} {'stag':>4s} {'blck':>4s} {'frzn':>4s} {'inex':>4s} {'flops':>6s} "
    f"{'params':>6s} {'change':>7s} {'err exact':>9s} {'err all':>9s} {'params':>6s} {'error':>9s} {'back':>4s} "
    f"{'sec':>6s}  frozen by          (second params, error: exact=True)"
)


def show(row: dict[str, Any]) -> None:
    """One line per network."""
    if "error" in row:
        print(f"{row['family']:26s} {row['model']:34s} FAILED {row['error']}", flush=True)
        return
    all_, exact = row["default"], row["exact"]
    print(
        f"{row['family']:26s} {row['model']:34s} {all_['filter_groups']:4d} {all_['stage_groups']:4d} "
        f"{all_['blocks']:4d} {sum(all_['frozen'].values()):4d} {sum(all_['inexact'].values()):4d} "
        f"{all_['flops_kept']:6.3f} {all_['params_kept']:6.3f} {all_['change']:7.0e} "
        f"{all_['error_exact_groups']:9.1e} {all_['error']:9.1e} {exact['params_kept']:6.3f} {exact['error']:9.1e} "
        f"{'yes' if row['round_trip'] else 'NO':>4s} {all_['analyze_seconds']:6.2f}  "
        + "; ".join(f"{count} x {reason}" for reason, count in all_["frozen"].items()),
        flush=True,
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of the table in README.md."""
    ran = [row for row in rows if "error" not in row]
    return {
        "networks": len(rows),
        "ran": len(ran),
        "round_trip": sum(row["round_trip"] for row in ran),
        "least_change_by_masking": min(row["default"]["change"] for row in ran),
        "default": _counts([row["default"] for row in ran]),
        "exact=True": _counts([row["exact"] for row in ran]),
        "versions": {
            "timm": timm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _counts(results: list[dict[str, Any]]) -> dict[str, Any]:
    whole = [not found["inexact"] and found["error"] < TRUSTED for found in results]
    fifth = [found["params_kept"] <= 0.8 for found in results]
    return {
        "exact_groups_exact": sum(found["error_exact_groups"] < TRUSTED for found in results),
        "exact_as_a_whole": sum(whole),
        "lose_a_fifth_of_parameters": sum(fifth),
        "both": sum(a and b for a, b in zip(whole, fifth, strict=True)),
        "median_params_kept": float(np.median([found["params_kept"] for found in results])),
        "median_analyze_seconds": float(np.median([found["analyze_seconds"] for found in results])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--member", type=int, default=0, help="0: the smallest of each family; 1: the second smallest"
    )
    parser.add_argument("--only", nargs="*", help="only some families (nothing is written to records/)")
    parser.add_argument("--share", default="1/1", help="part of the families to do, such as 1/2")
    arguments = parser.parse_args()
    members = chosen(arguments.member)
    if arguments.only:
        members = {family: member for family, member in members.items() if family in arguments.only}
    part, parts = map(int, arguments.share.split("/"))
    folder = ROWS / f"families_{arguments.member}" / program()
    print(HEADINGS)
    for number, (family, member) in enumerate(members.items()):
        if number % parts == part - 1:
            show(row_of(family, member, folder))
    if not all((folder / f"{family}.json").exists() for family in members):
        print("the other parts are not finished")
        return
    rows = [row_of(family, member, folder) for family, member in members.items()]
    total = summary(rows)
    print(json.dumps(total, indent=1))
    if not arguments.only:
        RECORDS.mkdir(exist_ok=True)
        path = RECORDS / f"families_{arguments.member}.json"
        path.write_text(json.dumps({"summary": total, "networks": rows}, indent=1) + "\n")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
