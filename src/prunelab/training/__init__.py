"""Training a network: the LightningModule, its settings, the machine, and one resumable fit."""

from prunelab.training.classifier import Classifier
from prunelab.training.distillation import Distillation, Teacher
from prunelab.training.fit import fit
from prunelab.training.machine import Machine
from prunelab.training.schedule import learning_rate_factor
from prunelab.training.settings import Training

__all__ = ["Classifier", "Distillation", "Machine", "Teacher", "Training", "fit", "learning_rate_factor"]
