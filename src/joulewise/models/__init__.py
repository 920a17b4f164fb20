"""Models: a zoo of small networks, and loading of users' models and of weights.

zoo           networks by name, with MLP, CNN and VGG, initialised from a seed
resnet        ResNet and MobileNetV2 for small images
transformer   a transformer encoder on image patches
shapes        input shapes and numbers of classes that the networks accept
loading       users' models, and the device and memory layout to compute with
weights       weights to and from files

No other room depends on these networks: a study takes any ``nn.Module``.
"""

from joulewise.models.loading import host, load_model
from joulewise.models.resnet import MobileNetV2, ResNet
from joulewise.models.transformer import Transformer
from joulewise.models.weights import load_weights, save_weights
from joulewise.models.zoo import MLP, VGG, ZOO, SmallCNN, build, seeded

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
