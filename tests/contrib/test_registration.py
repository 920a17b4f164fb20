"""Methods of prediction that contrib makes available by name."""

import subprocess
import sys

import pytest

from joulewise.contrib import FullCovariance
from joulewise.errors import InputError
from joulewise.prediction import METHODS, FirstOrder, register_method


def run(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_core_refuses_the_name_and_says_what_to_import():
    run("""
from joulewise.errors import InputError
from joulewise.prediction import METHODS, predict
assert "full-covariance" not in METHODS
try:
    predict(None, [], at={}, method="full-covariance")
except InputError as error:
    assert "import joulewise.contrib" in str(error)
else:
    raise AssertionError
import joulewise.contrib
assert "full-covariance" in METHODS
""")


def test_predict_of_the_package_knows_the_name():
    run("""
import joulewise as jw
jw.predict
from joulewise.prediction import METHODS
assert METHODS["full-covariance"] is jw.contrib.FullCovariance
""")


def test_a_name_has_one_method():
    register_method("full-covariance", FullCovariance)
    with pytest.raises(InputError, match="name of a method is 'full-covariance'; allowed: any"):
        register_method("full-covariance", FirstOrder)
    assert METHODS["full-covariance"] is FullCovariance
    with pytest.raises(TypeError):
        METHODS["mine"] = FirstOrder
