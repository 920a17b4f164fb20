"""A study on Dask workers: on this machine, or of any scheduler.

    pip install -c constraints.txt ".[dask]"               # in a clone
    python examples/dask_study.py                          # two workers on this machine
    python examples/dask_study.py tcp://HOST:8786          # those of a scheduler

A second run computes only the missing trials. Workers import joulewise and read the data; records
are written here.
"""

import sys
from contextlib import closing
from pathlib import Path

import joulewise as jw
from joulewise.report import write_study
from joulewise.study import DaskWorkers

STUDY = """
models: [mlp]
training: [{{method: sgd, epochs: {epochs}, lr: 0.1}}]
memories: [sram, "sram:bits=6"]
points: [eta=0.5, eta=0.4]
chips: 50
seeds: [0, 1]
"""


def main(folder: Path, address: str | None = None, *, epochs: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(STUDY.format(epochs=epochs))
    study = jw.Study.create(file, folder / "records")
    workload = study.workload()
    print(
        f"{workload.trainings} trainings, {workload.evaluations} evaluations, {workload.done} done"
    )
    with closing(DaskWorkers(address, workers=2)) as engine:
        failed = study.run(
            engine, report=lambda state: print(f"{state.done} of {state.total} trials")
        )
    for trial, cause in failed.items():
        print(f"trial {trial} failed: {cause}")
    write_study(study, folder / "index.html")
    print(f"the page: {folder / 'index.html'}")


if __name__ == "__main__":  # processes of the workers import this file
    try:
        main(Path("dask-study"), *sys.argv[1:2])
    except jw.JoulewiseError as error:  # such as a scheduler that cannot be reached
        sys.exit(f"dask_study: {error}")
