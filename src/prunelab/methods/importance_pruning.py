"""ImportancePruning: the callback for methods that score channels, in its short form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunelab.methods.allocation.budget import Budget
from prunelab.methods.calibration import Unpack, unpack_batch
from prunelab.methods.callback import PruningCallback
from prunelab.methods.context import Loss
from prunelab.methods.importance.criterion import Criterion
from prunelab.methods.importance.importance_method import ImportanceMethod


class ImportancePruning(PruningCallback):
    """Short form of ``PruningCallback(ImportanceMethod(criterion, budget, ...), ...)``::

        trainer = pl.Trainer(callbacks=[prunelab.ImportancePruning(prunelab.L1Norm(), prunelab.Budget(flops=0.5))])

    Args:
        criterion: computes the scores, such as ``L1Norm()`` or ``Taylor()``.
        budget: how much to keep.
        network, plan_file, example_input, calibration, validation, unpack, loss: see ``PruningCallback``.
        settings: see ``ImportanceMethod``: levels, exclude, allocation, normalisation, min_keep, divisor, images,
            seed, exact, cardinality, outputs.

    Example:
        >>> callback = prunelab.ImportancePruning(prunelab.Taylor(), prunelab.Budget(flops=0.5), images=256)
        >>> callback.method.images
        256
    """

    def __init__(
        self,
        criterion: Criterion,
        budget: Budget,
        network: str | None = None,
        plan_file: str | Path | None = None,
        example_input: Any = None,
        calibration: Iterable[Any] | None = None,
        validation: Iterable[Any] | None = None,
        unpack: Unpack = unpack_batch,
        loss: Loss | None = None,
        **settings: Any,
    ) -> None:
        method = ImportanceMethod(criterion, budget, **settings)
        super().__init__(method, network, plan_file, example_input, calibration, validation, unpack, loss)
