"""The networks that studies use, and loading of any user's model and weights.

shapes.py       which input shapes and class counts the networks accept
mlp.py          multilayer perceptron
cnn.py          three convolutions and a linear head
vgg.py          VGG: stacks of 3x3 convolutions
resnet.py       ResNet for small images
mobilenet.py    MobileNetV2 for small images
transformer.py  a transformer encoder on image patches
zoo.py          the table of names, and building one of them from a seed
importing.py    a model from a zoo name, ``package.module:function`` or ``file.py:function``
hosting.py      where a network computes: device and memory layout
weights.py      weights to and from a file, all or nothing

Nothing elsewhere in joulewise depends on these networks: a study takes any ``nn.Module``.
"""

from joulewise.models.cnn import SmallCNN as SmallCNN
from joulewise.models.hosting import host as host
from joulewise.models.importing import load_model as load_model
from joulewise.models.mlp import MLP as MLP
from joulewise.models.mobilenet import MobileNetV2 as MobileNetV2
from joulewise.models.resnet import ResNet as ResNet
from joulewise.models.transformer import Transformer as Transformer
from joulewise.models.vgg import VGG as VGG
from joulewise.models.weights import load_weights as load_weights
from joulewise.models.weights import save_weights as save_weights
from joulewise.models.zoo import ZOO as ZOO
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
