"""The command line in this process, and the weights of a small network to give it."""

import sys

import pytest

from joulewise.cli import main
from joulewise.models import build, save_weights


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
