"""Networks by name, and loading their weights. Importing this package adds its networks to timm's registry."""

from prunelab.models.build import build
from prunelab.models.cifar_mobilenet import CifarMobileNetV1, CifarMobileNetV2
from prunelab.models.cifar_resnet import CifarResNet
from prunelab.models.cifar_vgg import CifarVgg16Bn
from prunelab.models.lenet import LeNet5
from prunelab.models.origin import Origin
from prunelab.models.resnet_v1 import resnet50_v1
from prunelab.models.weights import load_weights
from prunelab.models.zero_pad import ZeroPadShortcut

__all__ = [
    "CifarMobileNetV1",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarVgg16Bn",
    "LeNet5",
    "Origin",
    "ZeroPadShortcut",
    "build",
    "load_weights",
    "resnet50_v1",
]
