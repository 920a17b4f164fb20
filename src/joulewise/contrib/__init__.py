"""Methods for few: built on the core, never imported by it.

co_design  alternate training through a plan and allocation of the network
"""

from joulewise.contrib.co_design import CoDesign as CoDesign
from joulewise.contrib.co_design import Round as Round
from joulewise.contrib.co_design import co_design as co_design

__all__ = ["CoDesign", "Round", "co_design"]
