"""Recovery without training, from a few hundred images without labels."""

from prunelab.calibration.bias import Bias
from prunelab.calibration.blockwise import Blockwise
from prunelab.calibration.bn import BatchNorm
from prunelab.calibration.distil import Distil
from prunelab.calibration.least_squares import LeastSquares
from prunelab.calibration.pair import Pair
from prunelab.calibration.steps import STEPS, Step, chosen_steps, title

__all__ = [
    "STEPS",
    "BatchNorm",
    "Bias",
    "Blockwise",
    "Distil",
    "LeastSquares",
    "Pair",
    "Step",
    "chosen_steps",
    "title",
]
