"""Image data sets as LightningDataModules with training, validation, test and calibration batches."""

from prunelab.data.cifar10 import Cifar10
from prunelab.data.digits import Digits
from prunelab.data.fashion_mnist import FashionMnist
from prunelab.data.image_folder import ImageFolder
from prunelab.data.imagenet import ImageNet
from prunelab.data.module import ImageData

__all__ = ["Cifar10", "Digits", "FashionMnist", "ImageData", "ImageFolder", "ImageNet"]
