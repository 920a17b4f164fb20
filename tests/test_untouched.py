"""Real interrupts at random times, a few of those that ``benchmarks/untouched.py`` sends."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/untouched.py"


# Where torch.compile was used before, PyTorch's callbacks of weak references run within the calls,
# and Python ignores an interrupt that strikes there.
@pytest.mark.filterwarnings("ignore:.*ExactWeakKeyDictionary")
def test_interrupts_change_nothing():
    spec = importlib.util.spec_from_file_location("untouched", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    sys.modules["untouched"] = script
    spec.loader.exec_module(script)
    rng = np.random.default_rng()
    assert script.calls(24, rng) + script.training(24, rng) == 0
