"""Records of benchmarks. Store them compactly: numbers to six significant digits, as .json.gz.

python benchmarks/records.py results/recovery.json [...]
"""

import csv
import gzip
import json
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from joulewise.files import write_atomically
from joulewise.simulation import mean_interval
from joulewise.study import Environment
from joulewise.units import format_point


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        content = json.dumps(rounded(json.loads(path.read_text())), separators=(",", ":"))
        # Without a time: the same record has the same bytes.
        packed = gzip.compress(content.encode(), mtime=0)
        write_atomically(path.with_name(f"{path.name}.gz"), packed)
        path.unlink()


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def origin() -> dict[str, Any]:
    """The command that runs, and its environment."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "environment": Environment.now().model_dump(),
    }


def opened(path: Path) -> dict[str, Any]:
    """A record with its rows so far, under ``results``, and the present origin."""
    record: dict[str, Any] = read_record(path) if path.exists() else {"results": []}
    return record | origin()


def read_record(path: Path) -> Any:
    """A record as a benchmark wrote it, or compact; of a study, its rows."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return list(csv.DictReader(text.splitlines())) if ".csv" in path.name else json.loads(text)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bracketed(value: float, interval: Sequence[float], digits: int = 1) -> str:
    """A value and its interval, such as 44.4 [43.5, 46.0]."""
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def plus_minus(values: Sequence[float], digits: int = 1) -> str:
    """A mean and half of its 95 % interval, such as 83.7 ± 1.6."""
    low, high = mean_interval(values)
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {(high - low) / 2:.{digits}f}" if len(values) > 1 else mean


def point_text(at: Mapping[str, float]) -> str:
    """An operating point, such as ``eta 0.5``, ``g_max 25 uS`` or ``1 hour``."""
    points = [f"{knob} {format_point(knob, value)}" for knob, value in at.items()]
    return ", ".join(point.removeprefix("seconds ") for point in points)


def write_record(path: Path, record: Any) -> None:
    write_atomically(path, json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
