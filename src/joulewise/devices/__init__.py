"""Memory devices: models of what is read back and of the energy that it takes.

Devices, laws and their parts are frozen values; a field of the wrong kind, or outside the range
that its docstring states, raises an `InputError` when the value is made.

device              the interface that every technology implements
chip                chips and their random streams, traffic, inputs of matrix-vector products
operating_point     operating points; the knob of a device, its range as levels from 0 to 1
moments             mean and variance of reads, stated or estimated, classes of words
word_memory         base of memories of words whose cells fail
protection          parity and error-correcting codes over words
spare_rows          spare rows that replace rows with failing cells
alternatives        memories to choose from, tensor by tensor
sram                SRAM under voltage scaling
dram                DRAM with fewer refreshes, or a lower supply
edram               embedded DRAM with fewer refreshes
retention           retention times of dynamic cells
aged_memory         dynamic memories whose words were written at different times
fault_kinds         effect of failing cells on a word: mask, flip, stuck
fault_maps          positions of failing cells: the interface, independent cells
correlated_map      weak rows, columns and blocks of cells
measured_map        cells of manufactured arrays that failed
fault_measurement   faults of arrays over the supply
salami2018          published faults of undervolted FPGA block RAMs, read from their files
fault_clustering    laws of clustered faults, fitted to a measurement
faulty_words        words with failing cells, and their replacement in tensors
reliability_laws    bit error rate, energy and leakage over the supply
voltage_table       a measured law: a table of supply voltages
profiles            named, cited laws
crossbar            memristor crossbars: mappings, slices, noise, stuck devices, wires
write_verify        crossbars of which some weights are written with verification
bit_slices          weights as digits on several devices
analog_cells        single analog devices: programming noise, stuck devices
conductance_range   weights between a lowest conductance and g_max
conductance_table   measured programming of analog devices; published ReRAM
wires               resistance of the wires of a crossbar, and its exact solution
pcm                 phase-change memory: programming noise, drift, read noise
pcm_laws            laws and moments of a phase-change device, drift compensation
conductance_pairs   weights as differential pairs, rectified Gaussian noise
crossbar_energy     energy of the read-out circuits of a crossbar
array               array sizes and converters
tables              CSV files of numbers, linear interpolation
arithmetic          energy of a multiply-accumulate
device_check        statistical self-check of a device
"""

from joulewise.devices.alternatives import Alternatives
from joulewise.devices.arithmetic import HOROWITZ_INT8, Arithmetic
from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, MatrixInputs, Traffic
from joulewise.devices.conductance_table import RERAM, ConductanceTable
from joulewise.devices.correlated_map import CorrelatedMap
from joulewise.devices.crossbar import Crossbar
from joulewise.devices.crossbar_energy import ISAAC, ReadOut
from joulewise.devices.device import Device
from joulewise.devices.device_check import DeviceCheck, MomentCheck, check_device
from joulewise.devices.dram import DRAM
from joulewise.devices.edram import EDRAM
from joulewise.devices.fault_clustering import (
    CorrelatedFit,
    fit_correlated_map,
    neighbour_correlation,
)
from joulewise.devices.fault_kinds import Flip, Mask, Stuck
from joulewise.devices.fault_maps import IndependentMap, Layout
from joulewise.devices.fault_measurement import FaultMeasurement
from joulewise.devices.measured_map import MeasuredMap
from joulewise.devices.moments import MomentEstimate, ReadMoments, SharedFactor, WordClasses
from joulewise.devices.operating_point import Knob, PlainPoint, Point, from_plain, plain_point
from joulewise.devices.pcm import PCM
from joulewise.devices.profiles import PROFILES, law
from joulewise.devices.protection import SECDED, Parity
from joulewise.devices.reliability_laws import ExponentialLaw, Leakage
from joulewise.devices.retention import DDR3L_70C, GAIN_CELL_65NM, Retention
from joulewise.devices.salami2018 import read_salami2018
from joulewise.devices.spare_rows import SpareRows
from joulewise.devices.sram import SRAM
from joulewise.devices.voltage_table import VoltageTable
from joulewise.devices.wires import solved_conductances, wire_factors
from joulewise.devices.word_memory import WordMemory
from joulewise.devices.write_verify import WriteVerify

__all__ = [
    "DDR3L_70C",
    "DRAM",
    "EDRAM",
    "GAIN_CELL_65NM",
    "HOROWITZ_INT8",
    "ISAAC",
    "PCM",
    "PROFILES",
    "RERAM",
    "SECDED",
    "SRAM",
    "Alternatives",
    "Arithmetic",
    "Array",
    "Chip",
    "ConductanceTable",
    "CorrelatedFit",
    "CorrelatedMap",
    "Crossbar",
    "Device",
    "DeviceCheck",
    "ExponentialLaw",
    "FaultMeasurement",
    "Flip",
    "IndependentMap",
    "Knob",
    "Layout",
    "Leakage",
    "Mask",
    "MatrixInputs",
    "MeasuredMap",
    "MomentCheck",
    "MomentEstimate",
    "Parity",
    "PlainPoint",
    "Point",
    "ReadMoments",
    "ReadOut",
    "Retention",
    "SharedFactor",
    "SpareRows",
    "Stuck",
    "Traffic",
    "VoltageTable",
    "WordClasses",
    "WordMemory",
    "WriteVerify",
    "check_device",
    "fit_correlated_map",
    "from_plain",
    "law",
    "neighbour_correlation",
    "plain_point",
    "read_salami2018",
    "solved_conductances",
    "wire_factors",
]
