"""Arguments of the wrong kind are refused where they enter, by name, in one sentence."""

import math
import pathlib

import pytest
import torch
from torch import nn

import joulewise as jw
from joulewise.data import Dataset, Split, load_cifar10
from joulewise.errors import InputError
from joulewise.models import build, load_model, load_weights, save_weights
from joulewise.optim import ASAM, SAM, SAMSON
from joulewise.training import TrainingSpec

MODEL = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
X = torch.ones(4, 64)
WEIGHTS = jw.SRAM(bits=8)
PLACEMENT = jw.place(MODEL, weights=WEIGHTS)
DIGITS = jw.load_data("digits")
SGD = torch.optim.SGD
IMAGES = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)


def place(model=MODEL, **options):
    return jw.place(model, **({"weights": WEIGHTS} | options))


def memory(placement=PLACEMENT, **options):
    return jw.TrainingMemory(placement, **({"at": {"eta": 0.5}} | options))


def sharp(kind, params=None, base=SGD, **options):
    return kind(MODEL.parameters() if params is None else params, base, lr=0.1, **options)


def train(model=MODEL, data=DIGITS, spec=None, **options):
    return jw.train(model, data, TrainingSpec(epochs=1) if spec is None else spec, **options)


def errors(placement=PLACEMENT, data=DIGITS.test, at=None, **options):
    return jw.error_model(placement, data, at={"eta": 0.5} if at is None else at, **options)


def split(**statistics):
    return Split(inputs=IMAGES, targets=torch.tensor([0, 1]), **statistics)


CASES = {
    r"model is 'model' \(str\)": lambda: place("model"),
    "model is the class Linear": lambda: place(nn.Linear),
    r"weights is 'sram' \(str\)": lambda: place(weights="sram"),
    "weights is the class SRAM": lambda: place(weights=jw.SRAM),
    r"activations is 'sram' \(str\)": lambda: place(activations="sram", example_inputs=X),
    "activations is the class SRAM": lambda: place(activations=jw.SRAM, example_inputs=X),
    r"include is 3 \(int\)": lambda: place(include=3),
    r"exclude is None \(NoneType\)": lambda: place(exclude=None),
    r"a pattern of include is 3 \(int\)": lambda: place(include=[3]),
    "rebuild is of type list": lambda: place(rebuild=[MODEL]),
    r"model is 'm' \(str\)": lambda: jw.fold_batchnorm("m", X),
    "model is of type Placement": lambda: jw.fold_batchnorm(PLACEMENT, X),
    r"the data source is 5 \(int\)": lambda: jw.load_data(5),
    r"the data source is None \(NoneType\)": lambda: jw.load_data(None),
    "the data source is of type PurePosixPath": lambda: jw.load_data(pathlib.PurePosixPath("a")),
    r"the folder is 3 \(int\)": lambda: load_cifar10(3),
    r"the batch size is '3' \(str\)": lambda: DIGITS.test.batches("3"),
    r"the batch size is 2.5 \(float\)": lambda: DIGITS.test.batches(2.5),
    r"count is '3' \(str\)": lambda: DIGITS.test.subset("3"),
    r"seed is 'x' \(str\)": lambda: DIGITS.test.subset(3, seed="x"),
    r"classes is '10' \(str\)": lambda: Dataset(
        name="x", train=None, test=DIGITS.test, classes="10", flips=False
    ),
    r"mean is 0.5 \(float\)": lambda: split(mean=0.5, std=0.5),
    r"a number in mean is 'a' \(str\)": lambda: split(mean=("a",), std=("b",)),
    r"model is 3 \(int\)": lambda: build(3, (1, 8, 8), 10, seed=0),
    r"input_shape is 8 \(int\)": lambda: build("mlp", 8, 10, seed=0),
    r"classes is 'ten' \(str\)": lambda: build("mlp", (1, 8, 8), "ten", seed=0),
    "seed is '0'": lambda: build("mlp", (1, 8, 8), 10, seed="0"),
    r"model is 4 \(int\)": lambda: load_model(4, (1, 8, 8), 10, seed=0),
    r"model is 'n' \(str\)": lambda: save_weights("n", "w.safetensors", {}),
    r"path is 3 \(int\)": lambda: save_weights(MODEL, 3, {}),
    r"path is 4 \(int\)": lambda: load_weights(MODEL, 4),
    r"model is 'l' \(str\)": lambda: load_weights("l", "w.safetensors"),
    r"model is 't' \(str\)": lambda: train("t"),
    r"data is 'digits' \(str\)": lambda: train(data="digits"),
    "data is of type Split": lambda: train(data=DIGITS.train),
    "spec is of type dict": lambda: train(spec={"epochs": 1}),
    "spec is the class TrainingSpec": lambda: train(spec=TrainingSpec),
    "memory is of type Placement": lambda: train(memory=PLACEMENT),
    "placement is of type Sequential": lambda: memory(MODEL),
    "seed is '1'": lambda: memory(seed="1"),
    "seed is 1.5": lambda: memory(seed=1.5),
    r"chip is 3 \(int\)": lambda: memory(chip=3),
    r"ranges is 3 \(int\)": lambda: memory(ranges=3),
    r"at is 0.5 \(float\)": lambda: jw.TrainingMemory(PLACEMENT, at=0.5),
    r"perfect is 'yes' \(str\)": lambda: jw.TrainingMemory(PLACEMENT, perfect="yes"),
    r"scale_gradients is 'yes' \(str\)": lambda: memory(scale_gradients="yes"),
    r"rho is '0.1' \(str\)": lambda: sharp(SAM, rho="0.1"),
    r"rho is None \(NoneType\)": lambda: sharp(SAM, rho=None),
    r"rho is True \(bool\)": lambda: sharp(ASAM, rho=True),
    "rho is nan": lambda: sharp(SAMSON, rho=math.nan),
    r"eta is '0' \(str\)": lambda: sharp(ASAM, eta="0"),
    "p is inf_": lambda: sharp(SAMSON, p="inf_"),
    r"scaled is \[\]": lambda: sharp(ASAM, scaled=[]),
    "params is a Sequential": lambda: sharp(SAM, MODEL),
    "base is 'sgd'": lambda: sharp(SAM, base="sgd"),
    r"weights is 3 \(int\)": lambda: jw.clip_weights(3, fixed=0.1),
    "fixed is '.1'": lambda: jw.clip_weights(MODEL, fixed=".1"),
    "deviations is of type list": lambda: jw.clip_weights(MODEL, deviations=[2]),
    "memory is of type Sequential": lambda: jw.reestimate_batchnorm(MODEL, [X]),
    "data is a str": lambda: jw.reestimate_batchnorm(memory(), "x"),
    "batch_size is '4'": lambda: jw.reestimate_batchnorm(memory(), DIGITS.train, batch_size="4"),
    "placement is of type Linear": lambda: errors(nn.Linear(3, 2)),
    r"at is 0.6 \(float\)": lambda: errors(at=0.6),
    "seed is '2'": lambda: errors(seed="2"),
    "memory_bytes is '1'": lambda: errors(memory_bytes="1"),
    "batch_size is '5'": lambda: errors(batch_size="5"),
}


@pytest.mark.parametrize("message", CASES)
def test_an_argument_of_the_wrong_kind(message):
    with pytest.raises(InputError, match=rf"^{message}.*; allowed: [^\n]+$"):
        CASES[message]()
