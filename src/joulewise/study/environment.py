"""Versions and machine, for the record."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from joulewise import __version__

__all__ = ["Environment"]


class Environment(BaseModel):
    """Versions, machine and threads of a computation, and when it finished."""

    model_config = ConfigDict(frozen=True)

    joulewise: str
    python: str
    torch: str
    numpy: str
    machine: str
    threads: int
    finished: str

    @classmethod
    def now(cls) -> Environment:
        """The environment of this process, at this moment (UTC)."""
        return cls(
            joulewise=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
            machine=_machine(),
            threads=torch.get_num_threads(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
