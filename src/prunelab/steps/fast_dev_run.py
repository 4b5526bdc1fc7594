"""A trial of a run (``fast_dev_run``): all steps are run once, with few images."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

MOST_ROUNDS = 2
MOST_CANDIDATES = 2


def shortened(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` for a trial with ``fast_dev_run`` batches per pass: few calibration images, rounds and candidates.

    Passes over training, validation and test images, and epochs, are limited by ``Machine.batches``.
    Without ``fast_dev_run`` nothing changes.
    """
    short = deepcopy(dict(config))
    batches = config.get("fast_dev_run")
    if not isinstance(batches, int):
        return short
    images = max(1, batches) * config["data"]["eval_batch_size"]
    limits = {
        "recipe": {"calibration_images": images, "number": MOST_ROUNDS, "parts": MOST_ROUNDS},
        "lowrank": {"images": images},
        "precision": {"calibration_images": images},
        "method": {"images": images, "validation_images": images, "candidates": MOST_CANDIDATES},
    }
    for group, most in limits.items():
        for name, limit in most.items():
            if isinstance(short.get(group, {}).get(name), int):
                short[group][name] = min(short[group][name], limit)
    if "evaluations" in short["method"]:
        short["method"]["evaluations"] = MOST_CANDIDATES
    return short
