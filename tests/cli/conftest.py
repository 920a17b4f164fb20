"""The command line in this process, and the weights of a small network to give it."""

import sys

import pytest

from joulewise.cli import main
from joulewise.data import load_digits
from joulewise.models import build, save_weights
from joulewise.training import TrainingSpec, train


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["joulewise", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mlp.safetensors"
    save_weights(build("mlp", (1, 8, 8), 10, seed=0), path, {})
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Weights that know digits."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=8, lr=0.1, seed=0))
    save_weights(model, path, {})
    return path
