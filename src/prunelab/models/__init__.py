"""Networks by name (ours are in timm's registry once this is imported), their weights and their training."""

from prunelab.models.build import build
from prunelab.models.cifar_mobilenet import CifarMobileNetV1, CifarMobileNetV2
from prunelab.models.cifar_resnet import CifarResNet
from prunelab.models.cifar_vgg import CifarVgg16Bn
from prunelab.models.classifier import Classifier
from prunelab.models.lenet import LeNet5
from prunelab.models.origin import Origin
from prunelab.models.resnet_v1 import resnet50_v1
from prunelab.models.schedule import learning_rate_factor
from prunelab.models.training import Training
from prunelab.models.weights import load_weights
from prunelab.models.zero_pad import ZeroPadShortcut

__all__ = [
    "CifarMobileNetV1",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarVgg16Bn",
    "Classifier",
    "LeNet5",
    "Origin",
    "Training",
    "ZeroPadShortcut",
    "build",
    "learning_rate_factor",
    "load_weights",
    "resnet50_v1",
]
