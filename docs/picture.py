"""The picture of the README: accuracy against memory energy, from the folder of the demo.

joulewise demo --out demo && python docs/picture.py demo docs/answer.svg
"""

import sys
from pathlib import Path

import vl_convert

from joulewise.files import write_atomically
from joulewise.report.blocks.accuracy_energy import accuracy_energy
from joulewise.report.theme import CONFIG
from joulewise.report.view import View
from joulewise.study import Study

folder, out = sys.argv[1:]
block = accuracy_energy(View(Study.open(folder)))
spec = {**block.charts["Of reliable memory"].to_dict(), "width": 640, "height": 280}
# A README cannot follow the reader's theme: dark text on white.
spec["config"] = {**CONFIG, "background": "white"}
svg = vl_convert.vegalite_to_svg(spec).replace("currentColor", "#333")
write_atomically(Path(out), svg)
