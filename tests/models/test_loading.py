import sys

import pytest
import torch
from torch import nn

from joulewise.errors import ModelError
from joulewise.models import SmallCNN, load_model

SHAPE = (1, 8, 8)
USER_MODULE = """
import argparse
import torch
from dataclasses import dataclass
from torch import nn

ready = nn.Linear(2, 2)  # draws random numbers, though only at the first import
number = 3

@dataclass
class Settings:  # looks its module up in sys.modules
    width: int = 4

class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.shape = (input_shape, classes)

    @classmethod
    def small(cls):
        return cls((1, 1, 1), 2)

def plain():
    return nn.Linear(5, 4)

def optional(classes=6, *args, **kwargs):
    return nn.Linear(2, classes)

def both(input_shape, classes, width=4):
    return nn.Linear(input_shape[1], classes)

def keyword(*, classes):
    return nn.Linear(2, classes)

def other(depth):
    return nn.Linear(2, 2)

def broken():
    raise RuntimeError("two\\n  lines")

def script():
    argparse.ArgumentParser().exit(2)

def no_model():
    return 3

def lazily():
    import {sibling}
    return {sibling}.make()
"""


@pytest.fixture
def user(tmp_path, monkeypatch, request):
    """A module in the current folder; a name per test, since Python keeps what it imported."""
    monkeypatch.chdir(tmp_path)
    name = f"user_{abs(hash(request.node.nodeid))}"
    sibling = f"{name}_sibling"
    (tmp_path / f"{name}.py").write_text(USER_MODULE.format(sibling=sibling))
    (tmp_path / f"{sibling}.py").write_text("from torch import nn\nmake = nn.Identity\n")
    yield name
    for module in [key for key in sys.modules if name in key]:
        del sys.modules[module]


@pytest.fixture(params=["module", "file", "absolute file"])
def source(user, tmp_path, request):
    file = f"{user}.py"
    return {"module": user, "file": file, "absolute file": str(tmp_path / file)}[request.param]


def test_a_zoo_name():
    assert isinstance(load_model("cnn", SHAPE, 10, seed=0), SmallCNN)


def test_a_callable_without_required_arguments_gets_none(source):
    assert load_model(f"{source}:plain", SHAPE, 10, seed=0).weight.shape == (4, 5)
    assert load_model(f"{source}:optional", SHAPE, 10, seed=0).weight.shape == (6, 2)


def test_a_callable_gets_the_arguments_that_it_names(source):
    assert load_model(f"{source}:both", SHAPE, 10, seed=0).weight.shape == (10, 8)
    assert load_model(f"{source}:keyword", SHAPE, 10, seed=0).weight.shape == (10, 2)


def test_a_class_and_an_attribute_of_it(source):
    assert load_model(f"{source}:Net", SHAPE, 10, seed=0).shape == (SHAPE, 10)
    assert load_model(f"{source}:Net.small", SHAPE, 10, seed=0).shape == ((1, 1, 1), 2)


def test_an_import_while_the_model_is_made(source):
    assert isinstance(load_model(f"{source}:lazily", SHAPE, 10, seed=0), nn.Identity)


def test_a_file_elsewhere_finds_its_siblings(user, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert isinstance(load_model(f"../{user}.py:lazily", SHAPE, 10, seed=0), nn.Identity)


def test_an_instance_is_copied(user):
    first = load_model(f"{user}:ready", SHAPE, 10, seed=0)
    with torch.no_grad():
        first.weight.zero_()
    assert load_model(f"{user}:ready", SHAPE, 10, seed=0).weight.any()


def test_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "user_package_xyz"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text("from torch.nn import Identity as net\n")
    assert isinstance(load_model("user_package_xyz.nets:net", SHAPE, 10, seed=0), nn.Identity)


def test_the_seed_decides_and_nothing_global_changes(source):
    state, path = torch.get_rng_state(), list(sys.path)
    first, again, other = (load_model(f"{source}:both", SHAPE, 3, seed=s).weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.path == path


def test_a_file_does_not_replace_a_module_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("from torch.nn import Identity as net\n")
    before = sys.modules.get("random")
    load_model("random.py:net", SHAPE, 10, seed=0)
    assert sys.modules.get("random") is before


@pytest.mark.parametrize("path", ["", "resnet", "package.module", ":f", "package.module:", "x.py"])
def test_another_form_is_refused(path):
    with pytest.raises(ModelError, match=r"model is '.*'; allowed: mlp, .*package.module:function"):
        load_model(path, SHAPE, 10, seed=0)


@pytest.mark.parametrize(
    ("attribute", "cause", "error"),
    [
        ("missing", "AttributeError: .* has no attribute 'missing'", AttributeError),
        ("number", "TypeError: an object of type int cannot be called", TypeError),
        ("other", r"TypeError: other\(\) missing 1 required .* 'depth'", TypeError),
        ("broken", "RuntimeError: two lines;", RuntimeError),
        ("script", "SystemExit: 2", SystemExit),
    ],
)
def test_a_failure_names_path_and_cause(source, attribute, cause, error):
    with pytest.raises(ModelError, match=cause) as caught:
        load_model(f"{source}:{attribute}", SHAPE, 10, seed=0)
    assert f"{source}:{attribute}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, error)


def test_a_module_that_does_not_exist():
    with pytest.raises(ModelError, match="ModuleNotFoundError: No module named 'nowhere_at_all'"):
        load_model("nowhere_at_all:f", SHAPE, 10, seed=0)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(ModelError, match="FileNotFoundError: .*nowhere.py"):
        load_model(f"{tmp_path / 'nowhere.py'}:f", SHAPE, 10, seed=0)
    assert "_joulewise_user_nowhere" not in sys.modules


@pytest.mark.parametrize(
    ("text", "cause"),
    [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_file_that_fails_while_imported(tmp_path, text, cause):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ModelError, match=cause):
        load_model(f"{tmp_path / 'bad.py'}:f", SHAPE, 10, seed=0)
    assert "_joulewise_user_bad" not in sys.modules


def test_a_result_that_is_no_module_is_refused(source):
    with pytest.raises(ModelError, match="no_model', which gives int; allowed: nn.Module"):
        load_model(f"{source}:no_model", SHAPE, 10, seed=0)
