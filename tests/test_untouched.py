"""Real interrupts at random times, a few of those that ``benchmarks/untouched.py`` sends."""

import secrets
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks/untouched.py"


def test_interrupts_change_nothing():
    """In a process of its own: an interrupt may strike within a callback of pytest's plugins."""
    counts = ["--interrupts", "24", "--blocks", "24", "--seed", str(secrets.randbelow(2**32))]
    done = subprocess.run(
        [sys.executable, SCRIPT, *counts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "interrupted" in done.stdout
