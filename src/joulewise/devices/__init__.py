"""Memory devices: models of what is read back and of the energy that it takes.

device              the interface that every technology implements
chip                chips and their random streams, traffic, inputs of matrix-vector products
operating_point     operating points, and the range of a knob as levels from 0 to 1
moments             mean and variance of reads, factors that words share, classes of words
sram                SRAM under voltage scaling
fault_kinds         effect of failing cells on a word: mask, flip, stuck
fault_maps          positions of failing cells: independent, correlated, measured
reliability_laws    bit error rate and energy against the supply; named, cited profiles
crossbar            memristor crossbars: additive, multiplicative and read noise
pcm                 phase-change memory: programming noise, drift, read noise
drift_compensation  global scaling of a tensor that undoes drift on average
conductance_pairs   weights as differential pairs, rectified Gaussian noise
crossbar_energy     energy of the read-out circuits of a crossbar
array               array sizes and converters
arithmetic          energy of a multiply-accumulate
"""

from joulewise.devices.arithmetic import HOROWITZ_INT8 as HOROWITZ_INT8
from joulewise.devices.arithmetic import Arithmetic as Arithmetic
from joulewise.devices.array import Array as Array
from joulewise.devices.chip import Chip as Chip
from joulewise.devices.chip import Load as Load
from joulewise.devices.chip import Traffic as Traffic
from joulewise.devices.crossbar import Crossbar as Crossbar
from joulewise.devices.crossbar_energy import ISAAC as ISAAC
from joulewise.devices.crossbar_energy import ReadOut as ReadOut
from joulewise.devices.device import Device as Device
from joulewise.devices.fault_kinds import Flip as Flip
from joulewise.devices.fault_kinds import Mask as Mask
from joulewise.devices.fault_kinds import Stuck as Stuck
from joulewise.devices.fault_maps import Correlated as Correlated
from joulewise.devices.fault_maps import Independent as Independent
from joulewise.devices.fault_maps import Measured as Measured
from joulewise.devices.moments import Common as Common
from joulewise.devices.moments import Moments as Moments
from joulewise.devices.moments import WordClasses as WordClasses
from joulewise.devices.operating_point import KnobRange as KnobRange
from joulewise.devices.operating_point import PlainPoint as PlainPoint
from joulewise.devices.operating_point import Point as Point
from joulewise.devices.operating_point import plain_point as plain_point
from joulewise.devices.pcm import PCM as PCM
from joulewise.devices.reliability_laws import PROFILES as PROFILES
from joulewise.devices.reliability_laws import ExponentialLaw as ExponentialLaw
from joulewise.devices.reliability_laws import VoltageTable as VoltageTable
from joulewise.devices.reliability_laws import law as law
from joulewise.devices.sram import SRAM as SRAM

__all__ = [
    "HOROWITZ_INT8",
    "ISAAC",
    "PCM",
    "PROFILES",
    "SRAM",
    "Arithmetic",
    "Array",
    "Chip",
    "Common",
    "Correlated",
    "Crossbar",
    "Device",
    "ExponentialLaw",
    "Flip",
    "Independent",
    "KnobRange",
    "Load",
    "Mask",
    "Measured",
    "Moments",
    "PlainPoint",
    "Point",
    "ReadOut",
    "Stuck",
    "Traffic",
    "VoltageTable",
    "WordClasses",
    "law",
    "plain_point",
]
