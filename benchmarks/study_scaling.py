"""Do studies scale, and how much does each trial cost beside its computation?

    python benchmarks/study_scaling.py --out results/study-scaling.json

Trials per second with two workers against one, for local processes and for Dask, each worker
started before the clock. The overhead of a trial: its share of the clock of one worker, less the
time it computes. And 1,000 short trials on 16 Dask workers of this machine: the rate, and how many
are missing in the end. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from records import origin, write_record

from joulewise.data import load_data
from joulewise.models import build, save_weights
from joulewise.study import DaskWorkers, Engine, LocalProcesses, Study, StudyFile

ENGINES: dict[str, Callable[[int], Engine]] = {
    "processes": LocalProcesses,
    "dask": lambda workers: DaskWorkers(workers=workers),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--chips", type=int, default=400)
    parser.add_argument("--short", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    record: dict[str, Any] = origin()
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "mlp.safetensors"
        digits = load_data("digits")
        save_weights(build("mlp", digits.input_shape, digits.classes, seed=0), weights, {})
        for name in ENGINES:
            one, two = (
                timed(name, workers, weights, arguments.trials, arguments.chips)
                for workers in (1, 2)
            )
            short = timed(name, 1, weights, 200, 2)
            overhead = 1 / short["rate"] - short["computing_s"]
            record[name] = {
                "one worker": one,
                "two workers": two,
                "speed-up": two["rate"] / one["rate"],
                "overhead_s": overhead,
            }
            print(name, record[name], flush=True)
        record["16 workers"] = timed("dask", 16, weights, arguments.short, 2)
        print("16 workers", record["16 workers"], flush=True)
    if arguments.out is not None:
        write_record(arguments.out, record)


def timed(name: str, workers: int, weights: Path, trials: int, chips: int) -> dict[str, float]:
    """Run a study of equal trials with an engine.

    Returns:
        Trials per second; mean seconds that one computes; trials that are missing in the end.
    """
    file = StudyFile.model_validate(
        {
            "data": {"source": "digits", "images": 100},
            "models": [f"mlp={weights}"],
            "memories": [f"crossbar:sigma={n + 1}e-7" for n in range(trials)],
            "points": ["g_max=2e-5"],
            "chips": chips,
        }
    )
    engine = ENGINES[name](workers)
    kept = Kept(engine)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(file, folder)
        assert len(study.cells) == trials
        try:
            kept.start(workers)
            began = time.perf_counter()
            study.run(kept)
            seconds = time.perf_counter() - began
        finally:
            engine.close()
        found = [study.store.read(cell.trial.digest) for cell in study.cells]
    computing = [record["seconds"] for record in found if record is not None]
    return {
        "rate": trials / seconds,
        "computing_s": sum(computing) / len(computing),
        "missing": float(trials - len(computing)),
    }


class Kept(Engine):
    """An engine whose workers were started before, and have imported what they need."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._executor = engine, engine.executor()

    def start(self, workers: int) -> None:
        """Wait until every worker has computed something."""
        wait([self._executor.submit(_begin, number) for number in range(4 * workers)])

    def executor(self) -> Any:
        """See `Engine`."""
        return self._executor

    def width(self) -> int:
        """See `Engine`."""
        return self._engine.width()


def _begin(number: int) -> int:
    import joulewise.study.compute  # noqa: F401

    time.sleep(1.0)
    return number


if __name__ == "__main__":
    main()
