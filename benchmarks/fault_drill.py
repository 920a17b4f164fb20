"""Do finished trials survive whatever happens to a study?

    python benchmarks/fault_drill.py --kills 20 --out results/fault-drill.json
    python benchmarks/fault_drill.py --kills 3 --quick

One small study, undisturbed, then under: kill -9 of the run at random moments; kill -9 of a Dask
worker and of the scheduler; damaged and truncated files; two runs at once; a full disk and a
read-only one (tmpfs; needs root, else skipped and said so). After each, the study is run again to
its end. Counted: records that were there before and are gone after (lost), those that were written
again (twice), and trials whose figures differ from the undisturbed run's bit for bit (changed).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from records import write_record

STUDY = """\
data: {source: digits, images: 40}
models: [mlp]
training: [{method: sgd, epochs: 1, lr: 0.1}, {method: sgd, epochs: 2, lr: 0.1}]
memories: [sram, "crossbar:sigma=1e-6"]
goals: [error=0.01]
granularities: [network, tensor]
curve_chips: 4
chips: 20
samples: 30
seeds: [0, 1]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="without Dask")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    random.seed(arguments.seed)  # noqa: TID251  moments of kills
    with tempfile.TemporaryDirectory() as scratch:
        drill = Drill(Path(scratch))
        print(f"undisturbed: {len(drill.truth)} trials in {drill.seconds:.0f} s", flush=True)
        disturbances: dict[str, Callable[[], dict[str, Any]]] = {
            "two runs at once": drill.two_at_once,
            "damaged files": drill.damaged,
            "full disk": drill.full_disk,
            "read-only disk": drill.read_only,
            "kills of a Dask worker": lambda: drill.killed_dask("worker", arguments.kills),
            "kills of the Dask scheduler": lambda: drill.killed_dask("scheduler", arguments.kills),
            "kills of a run": lambda: drill.killed_runs(arguments.kills),
        }
        found = {}
        for name, disturb in disturbances.items():
            if not (arguments.quick and "Dask" in name):
                found[name] = disturb()
                print(name, found[name], flush=True)
    if arguments.out is not None:
        write_record(arguments.out, found)
    if any(counts.get(k) for counts in found.values() for k in ("lost", "changed", "twice")):
        sys.exit(1)


class Drill:
    """The study, undisturbed, and its disturbances, in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.file = scratch, scratch / "study.yaml"
        self.file.write_text(STUDY)
        began = time.perf_counter()
        self.end(scratch / "truth")
        self.seconds = time.perf_counter() - began
        self.truth = figures(scratch / "truth")

    def command(self, folder: Path, *more: str) -> list[str]:
        base = [sys.executable, "-m", "joulewise", "run", str(self.file), "--out", str(folder)]
        return [*base, "--workers", "2", "--json", *more]

    def end(self, folder: Path) -> str:
        """Run to the end; what it said.

        Raises:
            SystemExit: if it does not end well.
        """
        done = subprocess.run(self.command(folder), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the study does not end: {done.stderr}")
        return done.stderr

    def compared(self, folder: Path, before: dict[str, int]) -> dict[str, int]:
        """Counts of what must not happen, from the state before the last run."""
        after, now = written(folder), figures(folder)
        return {
            "lost": sum(digest not in after for digest in before),
            "twice": sum(after.get(digest) != time_ for digest, time_ in before.items()),
            "changed": sum(now.get(digest) != value for digest, value in self.truth.items()),
        }

    def resume(self, folder: Path, total: dict[str, int]) -> None:
        """Run a disturbed study to its end, and add its counts to the total."""
        before = written(folder)
        self.end(folder)
        for key, count in self.compared(folder, before).items():
            total[key] += count

    def killed_runs(self, kills: int) -> dict[str, int]:
        total = {"kills": 0, "lost": 0, "twice": 0, "changed": 0}
        folder = self.scratch / "killed"
        for _ in range(kills):
            shutil.rmtree(folder, ignore_errors=True)
            process = subprocess.Popen(
                self.command(folder),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(random.uniform(0.0, self.seconds))
            if process.poll() is None:
                total["kills"] += 1
                # Some kills hit the run alone, as an out-of-memory killer does, others all of it.
                kill_tree(process, alone=random.random() < 0.5)
            process.wait()
            self.resume(folder, total)
        return total

    def two_at_once(self) -> dict[str, int]:
        folder = self.scratch / "two"
        runs = [subprocess.Popen(self.command(folder), stdout=subprocess.DEVNULL) for _ in range(2)]
        failed = sum(run.wait() != 0 for run in runs)
        return {"failed": failed, **self.compared(folder, written(folder))}

    def damaged(self) -> dict[str, Any]:
        folder = self.scratch / "damaged"
        shutil.copytree(self.scratch / "truth", folder)
        trials = sorted((folder / "trials").iterdir())
        trials[0].write_bytes(trials[0].read_bytes()[:100])
        text = trials[1].read_text()
        place = len(text) // 2
        while not text[place].isdigit():
            place += 1
        digit = "1" if text[place] != "1" else "2"
        trials[1].write_text(text[:place] + digit + text[place + 1 :])
        trials[2].unlink()
        (weights, *_) = sorted((folder / "weights").iterdir())
        weights.write_bytes(weights.read_bytes()[:-1])
        whole = {path.stem for path in trials[3:]}
        before = {digest: t for digest, t in written(folder).items() if digest in whole}
        said = self.end(folder)
        named = sum(path.name in said for path in trials[:2])
        counts = self.compared(folder, before)
        # The training whose weights were damaged is trained again, and it is the only one.
        counts["twice"] = max(counts["twice"] - 1, 0)
        return {"named": named, **counts}

    def full_disk(self) -> dict[str, Any]:
        needed = sum(path.stat().st_size for path in (self.scratch / "truth").rglob("*.*"))
        size = 4 * needed
        with tmpfs(self.scratch / "small", str(size)) as folder:
            if folder is None:
                return {"skipped": "no tmpfs can be mounted here"}
            (folder / "filler").write_bytes(bytes(size - needed // 2))
            study = folder / "study"
            done = subprocess.run(self.command(study), capture_output=True, text=True, check=False)
            before = written(study)
            (folder / "filler").unlink()
            self.end(study)
            return {
                "exit code": done.returncode,
                "sentences": sum(x.startswith("joulewise:") for x in done.stderr.splitlines()),
                "traceback": "Traceback" in done.stderr,
                "kept": len(before),
                **self.compared(study, before),
            }

    def read_only(self) -> dict[str, Any]:
        with tmpfs(self.scratch / "fixed", "8m") as folder:
            if folder is None:
                return {"skipped": "no tmpfs can be mounted here"}
            study = folder / "study"
            shutil.copytree(self.scratch / "truth", study)
            next((study / "trials").iterdir()).unlink()
            before = written(study)
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            done = subprocess.run(self.command(study), capture_output=True, text=True, check=False)
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            self.end(study)
            return {
                "exit code": done.returncode,
                "traceback": "Traceback" in done.stderr,
                **self.compared(study, before),
            }

    def killed_dask(self, victim: str, kills: int) -> dict[str, int]:
        total = {"kills": 0, "lost": 0, "twice": 0, "changed": 0}
        for number in range(kills):
            folder = self.scratch / f"dask-{victim}-{number}"
            with cluster(self.scratch) as (address, processes):
                run = subprocess.Popen(
                    self.command(folder, "--engine", "dask", "--address", address),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                time.sleep(random.uniform(3.0, self.seconds))
                total["kills"] += run.poll() is None
                kill_tree(processes[victim], alone=False)
                try:
                    run.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    run.kill()  # without its scheduler it may wait for ever
                    run.wait()
            self.resume(folder, total)
        return total


def figures(folder: Path) -> dict[str, Any]:
    """Results of the trials that can be read, without durations, and digests of weights."""
    found = {}
    for path in (folder / "trials").glob("*.json"):
        content = json.loads(path.read_text())["content"]
        training = content["result"].get("training", {})
        for timed in (training, *training.get("history", ())):
            timed.pop("seconds", None)
        found[path.stem] = content["result"], content.get("weights")
    return found


def written(folder: Path) -> dict[str, int]:
    """Time of writing of each record."""
    return {p.stem: p.stat().st_mtime_ns for p in (folder / "trials").glob("*.json")}


def kill_tree(process: subprocess.Popen[Any], *, alone: bool) -> None:
    """Kill -9 of a process, and of its whole session unless ``alone``."""
    children = subprocess.run(
        ["pgrep", "-s", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for pid in [str(process.pid)] if alone else children or [str(process.pid)]:
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", pid], check=False)
    process.wait()


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path | None]:
    """A small disk; None where none can be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


@contextmanager
def cluster(scratch: Path) -> Iterator[tuple[str, dict[str, subprocess.Popen[Any]]]]:
    """A Dask scheduler with two workers, in processes of their own."""
    port = random.randrange(20_000, 50_000)
    address = f"tcp://127.0.0.1:{port}"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
        + ["--port", str(port), "--no-dashboard"],
        start_new_session=True,
        cwd=scratch,
        **quiet,
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
            + ["--no-dashboard"],
            start_new_session=True,
            cwd=scratch,
            **quiet,
        )
        for _ in range(2)
    ]
    try:
        yield address, {"scheduler": scheduler, "worker": workers[0]}
    finally:
        for process in (*workers, scheduler):
            kill_tree(process, alone=False)


if __name__ == "__main__":
    main()
