"""Dask workers as an engine: a local cluster, or any scheduler by its address.

Clusters of dask-jobqueue (SLURM, PBS), Kubernetes and others are reached by their scheduler's
address. Workers must be able to import joulewise, and the user's models, and to read the data.
"""

from __future__ import annotations

import importlib
import logging
from concurrent.futures import Executor
from typing import Any

from joulewise.errors import InputError
from joulewise.study.engine import Engine
from joulewise.study.malloc import KEEP_FREED_MEMORY
from joulewise.user_code import cause_of

__all__ = ["DaskWorkers"]

# Of workers on this machine. Dask starts them with MALLOC_TRIM_THRESHOLD_ set low, which returns
# freed blocks, and looks at them every 10 and 500 ms for a dashboard, which nobody opens here.
_LOCAL = {
    **{f"distributed.nanny.pre-spawn-environ.{n}": v for n, v in KEEP_FREED_MEMORY.items()},
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
}
# Trials that wait at each worker, so that none is idle between two.
_AHEAD = 2
# Time that a scheduler is given to answer, which may be starting up itself, s.
_CONNECT_S = 10


class DaskWorkers(Engine):
    """Workers of a Dask scheduler.

    Args:
        address: Its address, such as ``tcp://10.0.0.1:8786``; None for a cluster of processes on
            this machine, reachable from it only.
        workers: Number of processes of that cluster; not used with an address.
        gpu: True to give each trial one ``GPU`` resource of the workers.

    Raises:
        InputError: if ``distributed`` is not installed, or the scheduler cannot be reached.
    """

    def __init__(self, address: str | None = None, *, workers: int = 1, gpu: bool = False) -> None:
        try:
            config: Any = importlib.import_module("dask.config")
            dask: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise InputError(
                'the engine is dask, which is not installed; allowed: pip install "joulewise[dask]"'
            ) from error
        self._client: Any = None
        self._cluster: Any = None
        self._options = {"resources": {"GPU": 1}} if gpu else {}
        try:
            if address is None:
                with config.set(_LOCAL):
                    self._cluster = dask.LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",  # a free port, for two at once
                        silence_logs=logging.ERROR,  # of workers that end slowly
                        resources={"GPU": 1} if gpu else None,
                    )
            self._client = dask.Client(
                self._cluster or address, timeout=_CONNECT_S, set_as_default=False
            )
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"the scheduler {address or 'of this machine'} cannot be reached "
                f"({cause_of(error)}); allowed: an address such as tcp://10.0.0.1:8786"
            ) from error

    def executor(self) -> Executor:
        """See `Engine`."""
        executor: Executor = self._client.get_executor(pure=False, **self._options)
        return executor

    def width(self) -> int:
        """See `Engine`."""
        threads: int = sum(self._client.nthreads().values())
        return max(1, _AHEAD * threads)

    def workers(self) -> int:
        """See `Engine`; none to spread over where trials are given GPUs."""
        return 0 if self._options else self.width() // _AHEAD

    def close(self) -> None:
        """See `Engine`."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
