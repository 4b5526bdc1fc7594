"""The best of several similar networks, without evaluating each of them on all held-out images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.distributed.ranks import on_all_ranks, sum_over_ranks, world
from prunelab.methods.calibration import Batch
from prunelab.methods.importance.prefix import Prefix, record_outputs
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.supernet import Supernet
from prunelab.methods.search.widths import Widths

BLOCKS, SMALLEST_BLOCK = 16, 32
"""The largest number of parts of the held-out images, and the smallest number of images in a part."""

STATISTICS_IMAGES = 64
"""Images on which the running statistics of each network are measured."""

FEW = 2
"""The first networks that are evaluated on a block run from their first layer: often no others follow."""

CURRENT = ""
"""The current network, among names of groups."""

Moves = Mapping[str, Widths]
Statistics = Mapping[str, Tensor]


class Race:
    """Compares networks of a supernet by their errors on held-out images, and of equal errors by their cross entropy.

    The images are divided into blocks, those with the largest loss in the current network first. The network with the
    smallest (errors, cross entropy) so far is evaluated on its next block, until one that was evaluated on all blocks
    has the smallest. Both only increase with further images: the others cannot win, and the winner is the same as with
    ``race=False``, which evaluates all networks on all images, in batches of the largest size of ``batches``.

    Each network differs from the current one in the widths of one group: all modules that finish before the first
    module with channels of this group return cached outputs of the current network. Running statistics of each network
    are measured on ``STATISTICS_IMAGES`` of the images first.

    Args:
        supernet: the trained weights for all widths. Its network is in evaluation mode (``untouched``).
        batches: held-out images (N, C, H, W) and classes (N,).
        prefixes: group -> modules whose outputs are reused; {}: none.
        race: False: evaluate all networks on all images.
        order: that of an interrupted search.

    Attributes:
        order: positions of the images, from the largest to the smallest loss; None before the first call.
        evaluated: fraction of (networks x images) that was evaluated so far.
        heat: the latest comparison.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: Sequence[Batch],
        prefixes: Mapping[str, Prefix],
        race: bool = True,
        order: list[int] | None = None,
    ) -> None:
        self.supernet, self.prefixes, self.race, self.order = supernet, prefixes, race, order
        self.images = torch.cat([images for images, _ in batches])
        self.targets = torch.cat([targets for _, targets in batches])
        self.largest = max(len(targets) for _, targets in batches)
        self.heat: Heat | None = None
        self._counts = [0, 0]

    @property
    def evaluated(self) -> float:
        return self._counts[0] / max(1, self._counts[1])

    @torch.no_grad()
    def best(self, row: Widths, moves: Moves) -> str:
        """The best of ``moves`` (changed group -> widths of all groups), where ``row`` are the current widths."""
        if self.order is None:
            self.order = list(range(len(self.targets)))
            alone = Heat(self, row, {CURRENT: row})
            alone.finish([0])
            self._sort(alone.found[0, :, 1])
        self.heat = heat = Heat(self, row, moves)
        best = heat.race() if self.race else heat.finish(range(len(moves)))
        self._counts[0] += heat.evaluated
        self._counts[1] += len(moves) * len(self.targets)
        self._sort(heat.found[best, :, 1])
        return list(moves)[best]

    def _sort(self, losses: Tensor) -> None:
        self.order = torch.argsort(losses, descending=True, stable=True).tolist()

    def rounds(self) -> list[list[Tensor]]:
        """Blocks of positions of images, the largest losses first; each rank evaluates one of the blocks of a round."""
        size = self.largest
        if self.race:
            size = min(size, max(SMALLEST_BLOCK, -(-len(self.targets) // BLOCKS)))
        blocks = torch.tensor(self.order).split(size)
        ranks = world()[1]
        return [list(blocks[first : first + ranks]) for first in range(0, len(blocks), ranks)]


class Heat:
    """One comparison of a race.

    Attributes:
        found: (networks, images, 2): error (0 or 1) and cross entropy, zeros where a network was not evaluated.
        evaluated: networks times images.
    """

    def __init__(self, race: Race, row: Widths, moves: Moves) -> None:
        self._race, self._row, self._moves, self._names = race, row, moves, list(moves)
        self._sliced, self._rounds = race.supernet.sliced, race.rounds()
        self.found = torch.zeros(len(moves), len(race.targets), 2, dtype=torch.float64)
        self.evaluated = 0
        self._done = [0] * len(moves)
        self._requests: Counter[int] = Counter()
        self._outputs: dict[int, Mapping[str, Tensor]] = {}
        self._statistics = on_all_ranks(self._measured)

    def race(self) -> int:
        """The number of the best network; evaluates as little as is needed."""
        for number in range(len(self._names)):
            self._next_round(number)
        while self._done[best := self._smallest()] < len(self._rounds):
            self._next_round(best)
        return best

    def finish(self, numbers: Sequence[int]) -> int:
        """Evaluate these networks on all images; the number of the best one."""
        for number in numbers:
            while self._done[number] < len(self._rounds):
                self._next_round(number)
        return self._smallest()

    def _smallest(self) -> int:
        """The first network with the smallest (errors, cross entropy) so far.

        Each sum is that of one value per image, zero or not: adding images never makes it smaller, also in floating
        point.
        """
        sums = self.found.sum(dim=1).tolist()
        return min(range(len(sums)), key=lambda number: tuple(sums[number]))

    def _next_round(self, number: int) -> None:
        blocks = self._rounds[self._done[number]]
        self._done[number] += 1
        found = torch.zeros(self.found.shape[1:], dtype=torch.float64)
        rank, _ = world()

        def work() -> None:
            if rank < len(blocks):
                found[blocks[rank]] = self._evaluated(self._names[number], blocks[rank])

        on_all_ranks(work)
        sum_over_ranks(found)
        self.found[number] += found
        self.evaluated += sum(map(len, blocks))

    def _evaluated(self, name: str, block: Tensor) -> Tensor:
        """(images of the block, 2): errors and cross entropies of a network."""
        places = block.to(self._race.targets.device)
        images, targets = self._race.images[places], self._race.targets[places]
        outputs = self._reused(int(block[0]), images)
        with self._network(self._moves[name], name) as model, self._skipped(name, outputs, len(images)):
            logits = model(images)
        loss = functional.cross_entropy(logits.double(), targets, reduction="none")
        return torch.stack([(logits.argmax(dim=1) != targets).double(), loss], dim=1).cpu()

    def _reused(self, block: int, images: Tensor) -> Mapping[str, Tensor]:
        """Outputs of the current network for a block, identified by its first image; {} for the first ``FEW`` networks.

        No more images are kept than one batch of the held-out images has.
        """
        self._requests[block] += 1
        kept = (len(self._outputs) + 1) * len(images)
        if block not in self._outputs and self._requests[block] > FEW and kept <= self._race.largest:
            with self._network(self._row, CURRENT) as model, self._recorded() as outputs:
                model(images)
            self._outputs[block] = outputs
        return self._outputs.get(block, {})

    def _measured(self) -> dict[str, Statistics]:
        """Running statistics of the current network (``CURRENT``) and of the others: name of the buffer -> values."""
        images = self._race.images
        images = images[:: max(1, len(images) // STATISTICS_IMAGES)][:STATISTICS_IMAGES]
        with self._network(self._row) as model, self._recorded() as outputs:
            adapt_batch_norm(model, [images])
            current = _running_statistics(model)
        found: dict[str, Statistics] = {CURRENT: current}
        for name, moved in self._moves.items():
            with self._network(moved) as model, self._skipped(name, outputs, len(images)):
                adapt_batch_norm(model, [images])
                found[name] = current | _running_statistics(model)
        return found

    def _network(self, widths: Widths, name: str | None = None) -> AbstractContextManager[nn.Module]:
        """Context with the network of these widths, and with the running statistics of this name."""
        return self._sliced.at(widths.tolist(), parts=None if name is None else self._statistics[name])

    def _recorded(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Context in which the network stores the outputs that the moves reuse."""
        prefixes = self._race.prefixes
        paths = {path for name in self._moves if name in prefixes for path in prefixes[name].read}
        return record_outputs(self._sliced.model, sorted(paths))

    @contextmanager
    def _skipped(self, name: str, outputs: Mapping[str, Tensor], count: int) -> Iterator[None]:
        """Context in which the network of a move reuses outputs for ``count`` images, if there are any."""
        if not outputs or name not in self._race.prefixes:
            yield
            return
        with self._race.prefixes[name].skipped(self._sliced.model, outputs) as choose:
            choose(torch.arange(count, device=self._race.images.device))
            yield


def _running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Those that ``adapt_batch_norm`` has measured; layers that did not run are left out."""
    return {
        f"{path}.{name}": buffer.clone()
        for path, norm in model.named_modules()
        if isinstance(norm, _BatchNorm) and norm.num_batches_tracked
        for name, buffer in norm.named_buffers(recurse=False)
        if name.startswith("running_")
    }
