"""What is done to a network after it was pruned: it is trained again, in one or several rounds."""

from prunelab.recovery.fit import fit
from prunelab.recovery.machine import Machine
from prunelab.recovery.processes import held_by_first_rank, is_first_rank, start_processes, takes_part
from prunelab.recovery.recipe import FrontToBack, Iterative, OneShot, Recipe, Round
from prunelab.recovery.union import united

__all__ = [
    "FrontToBack",
    "Iterative",
    "Machine",
    "OneShot",
    "Recipe",
    "Round",
    "fit",
    "held_by_first_rank",
    "is_first_rank",
    "start_processes",
    "takes_part",
    "united",
]
