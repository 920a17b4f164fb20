"""Models: a zoo of small networks, and loading of users' models and of weights.

zoo           networks by name, with MLP, CNN and VGG, initialised from a seed
resnet        ResNet and MobileNetV2 for small images
transformer   a transformer encoder on image patches
shapes        input shapes and numbers of classes that the networks accept
loading       users' models, and the device and memory layout to compute with
weights       weights to and from files

No other room depends on these networks: a study takes any ``nn.Module``.
"""

from joulewise.models.loading import host as host
from joulewise.models.loading import load_model as load_model
from joulewise.models.resnet import MobileNetV2 as MobileNetV2
from joulewise.models.resnet import ResNet as ResNet
from joulewise.models.transformer import Transformer as Transformer
from joulewise.models.weights import load_weights as load_weights
from joulewise.models.weights import save_weights as save_weights
from joulewise.models.zoo import MLP as MLP
from joulewise.models.zoo import VGG as VGG
from joulewise.models.zoo import ZOO as ZOO
from joulewise.models.zoo import SmallCNN as SmallCNN
from joulewise.models.zoo import build as build
from joulewise.models.zoo import seeded as seeded

__all__ = [
    "MLP",
    "VGG",
    "ZOO",
    "MobileNetV2",
    "ResNet",
    "SmallCNN",
    "Transformer",
    "build",
    "host",
    "load_model",
    "load_weights",
    "save_weights",
    "seeded",
]
