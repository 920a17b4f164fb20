"""Access counts and energies from mappers and accelerator models, in one table.

A mapper such as ZigZag, AccelForge or Timeloop says how often each memory of an accelerator is read
and written for each tensor of each layer. `joulewise.with_accesses` counts energy by its accesses,
`joulewise.plan_by_component` writes a plan back in its terms.

access_table    rows of layer, tensor, component, action, count and joules; CSV; stated totals
zigzag          folders and JSON files of ZigZag
accelforge      mappings of AccelForge, and JSON of them
timeloop        stats files of Timeloop with Accelergy
reading         files found, read and validated
"""

from joulewise.mappers.accelforge import read_accelforge
from joulewise.mappers.access_table import AccessRow, AccessTable
from joulewise.mappers.timeloop import read_timeloop
from joulewise.mappers.zigzag import read_zigzag

__all__ = ["AccessRow", "AccessTable", "read_accelforge", "read_timeloop", "read_zigzag"]
