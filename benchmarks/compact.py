"""Store records of benchmarks compactly: without spaces, numbers to six significant digits.

python benchmarks/compact.py results/recovery.json [...]
"""

import json
import sys
from pathlib import Path
from typing import Any

from joulewise.files import write_atomically


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        record = rounded(json.loads(path.read_text()))
        write_atomically(path, json.dumps(record, separators=(",", ":")) + "\n")


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
