"""Where a network's energy goes, with reliable memory and at its largest accuracy drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from joulewise.report.summary import drop_in_words
from joulewise.study import ContenderRecord, EnergyRecord
from joulewise.study.comparison import Saving

__all__ = ["COMPONENTS", "RELIABLE", "Split", "splits"]

COMPONENTS = ("Weights", "Activations", "Other parameters, in reliable memory", "Arithmetic")
RELIABLE = "reliable memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Joules of one inference by component.

    Args:
        name: The network.
        where: The state of the memory, in words.
        parts_j: Joules for each of `COMPONENTS`.
        reliable_j: Joules of the same network with reliable memory, all components.
    """

    name: str
    where: str
    parts_j: Mapping[str, float]
    reliable_j: float

    @property
    def is_reliable(self) -> bool:
        """Whether this is the network with reliable memory."""
        return self.where == RELIABLE

    @property
    def total_j(self) -> float:
        """All components."""
        return sum(self.parts_j.values())


def splits(contender: ContenderRecord) -> list[Split]:
    """One network with reliable memory, and at its largest drop if that was reached."""
    reliable = contender.reliable.energy
    parts = _parts(reliable, reliable.memory_reliable_j)
    whole = sum(parts.values())
    found = [
        Split(name=contender.name, where=RELIABLE, parts_j=parts, reliable_j=whole),
    ]
    saving = max(contender.savings, key=lambda saving: saving.at.drop, default=None)
    if saving is not None and saving.memory_j is not None:
        parts = _parts(_nearest(contender, saving), saving.memory_j)
        where = f"{drop_in_words(saving.at.drop)} given up"
        found.append(Split(name=contender.name, where=where, parts_j=parts, reliable_j=whole))
    return found


def _nearest(contender: ContenderRecord, saving: Saving) -> EnergyRecord:
    """The simulated energy closest to the crossing's: tells how placed tensors share it."""
    memory = saving.memory_j or 0.0
    records = [simulation.energy for simulation in contender.simulations]
    return min(records, key=lambda record: abs(record.memory_total_j - memory))


def _parts(record: EnergyRecord, memory_j: float) -> dict[str, float]:
    """Joules by component, the placed memory's shares as in ``record`` but ``memory_j`` in all."""
    activations = sum(joules for name, joules in record.memory_j.items() if ":input" in name)
    share = activations / record.memory_total_j if record.memory_total_j else 0.0
    amounts = (
        memory_j * (1 - share),
        memory_j * share,
        record.unplaced_j,
        record.arithmetic_j,
    )
    return dict(zip(COMPONENTS, amounts, strict=True))
