"""Networks of pytorchcv (imgclsmob): one of each family, mostly the smallest."""

from __future__ import annotations

from functools import partial

from pytorchcv.model_provider import get_model

from listed.entry import Entry

SMALL = (
    "resnet20_cifar10", "preresnet20_cifar10", "resnext20_16x4d_cifar10", "seresnet20_cifar10",
    "pyramidnet110_a48_cifar10", "densenet40_k12_cifar10", "xdensenet40_2_k24_bc_cifar10", "rir_cifar10",
    "ror3_56_cifar10", "nin_cifar10", "shakeshakeresnet20_2x16d_cifar10", "shakedropresnet20_cifar10",
    "fractalnet_cifar10", "diaresnet20_cifar10", "diapreresnet20_cifar10", "resdropresnet20_cifar10",
)  # fmt: skip
USUAL = (
    "zfnet", "bninception", "resnet10", "preresnet10", "seresnet10", "sepreresnet10", "resnestabc14",
    "ibn_resnet50", "ibn_densenet121", "airnet50_1x64d_r2", "bam_resnet18", "cbam_resnet18", "resattnet56",
    "sknet50", "scnet50", "diaresnet10", "pyramidnet101_a360", "diracnet18v2", "sharesnet18", "condensenet74_c4_g4",
    "sparsenet121", "peleenet", "drnc26", "dpn68", "darknet_ref", "darknet53", "channelnet", "revnet38", "bagnet9",
    "dla34", "fishnet99", "espnetv2_wd2", "hrnet_w18_small_v1", "vovnet27s", "selecsls42", "hardnet39ds",
    "squeezenet_v1_0", "sqnxt23_w1", "shufflenet_g1_w1", "shufflenetv2_wd2", "menet108_8x1_g3", "mobilenet_w1",
    "mobilenetv2_w1", "mobilenetv3_small_w1", "igcv3_w1", "ghostnet", "mnasnet_small", "proxylessnas_cpu",
    "fbnet_cb", "xception", "inceptionv4", "inceptionresnetv1", "nasnet_4a1056", "efficientnet_b0", "mixnet_s",
    "isqrtcovresnet18", "octresnet10_ad2", "tresnet_m",
)  # fmt: skip
# Most end with a pooling of 7 x 7, so that they accept only images of 224 pixels.
LARGER = {"inceptionv4": 299, "inceptionresnetv1": 299, "xception": 299}
SEGMENTATION = (
    "fastscnn_cityscapes", "cgnet_cityscapes", "dabnet_cityscapes", "icnet_resnetd50b_cityscapes",
    "danet_resnetd50b_cityscapes", "fpenet_cityscapes", "ctxnet_cityscapes", "edanet_cityscapes",
    "enet_cityscapes", "erfnet_cityscapes", "linknet_cityscapes", "segnet_cityscapes", "unet_cityscapes",
    "sqnet_cityscapes", "esnet_cityscapes",
)  # fmt: skip


def _entry(name: str, size: int, other: int | None, **settings: object) -> Entry:
    return Entry("pytorchcv", name, partial(get_model, name, pretrained=False, **settings), size, other)


NETWORKS = [
    *(_entry(name, 32, None) for name in SMALL),
    *(_entry(name, LARGER.get(name, 224), None) for name in USUAL),
    *(_entry(name, 64, 96, in_size=(64, 64), fixed_size=False) for name in SEGMENTATION),
    _entry("lednet_cityscapes", 64, None, in_size=(64, 64)),
    _entry("sinet_cityscapes", 128, None, in_size=(128, 128)),
    _entry("simplepose_resnet18_coco", 64, None, in_size=(64, 64)),
    _entry("centernet_resnet18_voc", 64, None, in_size=(64, 64)),
]
