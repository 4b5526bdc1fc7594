"""The networks of the benchmark, a file for each package."""

from __future__ import annotations

import importlib
from itertools import chain, zip_longest

from listed.entry import Entry

FILES = (
    "torchvision_networks", "pytorchcv_networks", "smp_networks", "transformers_networks", "monai_networks",
    "spandrel_networks", "ultralytics_networks",
)  # fmt: skip


def entries() -> tuple[list[Entry], list[str]]:
    """All networks of the packages that are installed, those of small inputs first and of each package in turn, and the
    missing packages."""
    found: list[list[Entry]] = []
    missing: list[str] = []
    for file in FILES:
        try:
            found.append(importlib.import_module(f"listed.{file}").NETWORKS)
        except ModuleNotFoundError as error:
            missing.append(str(error.name))
    in_turn = chain.from_iterable(zip_longest(*found))
    return sorted((entry for entry in in_turn if entry is not None), key=lambda entry: entry.size), missing
