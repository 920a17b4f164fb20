"""Tables of docs/evidence.md, generated from the records in results/.

    python benchmarks/evidence.py            # writes the tables anew
    python benchmarks/evidence.py --check    # exit code 1 where a table differs from its record

A table stands between `<!-- table: MODULE.FUNCTION RECORD... -->` and `<!-- end -->`. MODULE is a
file of benchmarks/, FUNCTION takes the content of each RECORD and returns Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

from records import read_record

from joulewise.files import write_atomically

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/evidence.md"
TABLE = re.compile(r"(<!-- table: (\S+)\.(\w+) (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    given = PAGE.read_text()
    made = TABLE.sub(generated, given)
    if not options.check:
        write_atomically(PAGE, made)
        return
    pairs = zip(TABLE.finditer(given), TABLE.finditer(made), strict=True)
    different = [old[1].strip() for old, new in pairs if old[5] != new[5]]
    for opening in different:
        print(f"differs from its record: {opening}")
    sys.exit(1 if different else 0)


def generated(found: re.Match[str]) -> str:
    """A table with its two marks."""
    opening, module, function, paths, _, end = found.groups()
    make = getattr(importlib.import_module(module), function)
    records = [read_record(ROOT / path) for path in paths.split()]
    return f"{opening}\n{make(*records).strip()}\n\n{end}"


if __name__ == "__main__":
    main()
