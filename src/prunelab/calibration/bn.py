"""Batch normalisation statistics of the pruned network, measured again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.calibration.pair import Pair
from prunelab.distributed.ranks import sum_over_ranks
from prunelab.methods.search.batch_norm import adapt_batch_norm


@dataclass(frozen=True)
class BatchNorm:
    """Running means and variances are replaced by the mean over batches of the batch statistics.

    As in Li et al., EagleEye, ECCV 2020, arXiv:2007.02491. Layers without batch normalisation do not change. With
    several ranks the result is that of one process over the same batches.
    """

    def __call__(self, pair: Pair) -> None:
        """Adjust ``pair.pruned``."""
        norms = [
            module
            for module in pair.pruned.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        if not norms:
            return
        with pair.looking(), torch.no_grad():
            adapt_batch_norm(pair.pruned, pair.batches)
            count = torch.tensor(float(len(pair.batches)), dtype=torch.float64, device=pair.example.device)
            own = count.clone()
            sum_over_ranks(count)
            for norm in norms:
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.fill_(int(count))
                for statistic in (norm.running_mean, norm.running_var):
                    assert statistic is not None
                    total = statistic.double() * own
                    sum_over_ranks(total)
                    statistic.copy_(total / count)
