"""Devices: a memory is a distribution over what is read back, and a price.

device        the contract that every technology answers; chips, moments, traffic
knob_range    points as shares of what a device allows
word_classes  words whose moments are the same, for whoever asks at hundreds of points
laws          supply -> bit error rate and energy: the exponential law, measured voltage tables
fault_kinds   what a failing cell does to its word: mask, flip, stuck
fault_maps    where failing cells are: independent, correlated, measured
sram          the SRAM, put together from the three above
rectified     Gaussian noise on a conductance that cannot be negative
pairs         weights as differential pairs of conductances
arrays        matrices cut into pieces, with converters at their ends
readout       what it costs to compute with a crossbar
crossbar      memristors: additive, multiplicative and read noise
compensation  one factor for a tensor, taken from the chip, that undoes drift
pcm           phase-change memory: programming noise, drift, read noise
arithmetic    the price of a multiply-accumulate
profiles      named, cited reliability laws
"""

from joulewise.devices.arithmetic import HOROWITZ_INT8 as HOROWITZ_INT8
from joulewise.devices.arithmetic import Arithmetic as Arithmetic
from joulewise.devices.arrays import Array as Array
from joulewise.devices.crossbar import Crossbar as Crossbar
from joulewise.devices.device import Chip as Chip
from joulewise.devices.device import Common as Common
from joulewise.devices.device import Device as Device
from joulewise.devices.device import Load as Load
from joulewise.devices.device import Moments as Moments
from joulewise.devices.device import PlainPoint as PlainPoint
from joulewise.devices.device import Point as Point
from joulewise.devices.device import Traffic as Traffic
from joulewise.devices.device import plain_point as plain_point
from joulewise.devices.fault_kinds import Flip as Flip
from joulewise.devices.fault_kinds import Mask as Mask
from joulewise.devices.fault_kinds import Stuck as Stuck
from joulewise.devices.fault_maps import Correlated as Correlated
from joulewise.devices.fault_maps import Independent as Independent
from joulewise.devices.fault_maps import Measured as Measured
from joulewise.devices.knob_range import KnobRange as KnobRange
from joulewise.devices.laws import ExponentialLaw as ExponentialLaw
from joulewise.devices.laws import VoltageTable as VoltageTable
from joulewise.devices.pcm import PCM as PCM
from joulewise.devices.profiles import PROFILES as PROFILES
from joulewise.devices.profiles import law as law
from joulewise.devices.readout import ISAAC as ISAAC
from joulewise.devices.readout import ReadOut as ReadOut
from joulewise.devices.sram import SRAM as SRAM
from joulewise.devices.word_classes import WordClasses as WordClasses

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
