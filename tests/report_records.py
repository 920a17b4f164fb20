"""Records of allocations and fronts whose figures are chosen rather than found."""

from joulewise.allocation import EnergyAtGoal, Granularity
from joulewise.study import (
    AllocationEvidence,
    AllocationRecord,
    AttemptRecord,
    EnergyRecord,
    Environment,
    FrontComparison,
    FrontEvidence,
    FrontPointRecord,
    FrontRecord,
    PlacedRecord,
    SimulationRecord,
    iso_accuracy,
)

MEAN = {"goal": "MeanGoal", "accuracy": 0.975}
RELIABLE = 1e-9
SRAM = {"device": "sram", "bits": 8}


def tensors(names=("a.weight", "b:input")):
    """Weights and inputs by turns, each as dear as the next."""
    return tuple(
        PlacedRecord(
            name=name,
            role="activation" if name.endswith(":input") else "weight",
            words=100 * (k + 1),
            bits=8,
            reads=100.0,
            writes=0.0,
            reliable_j=RELIABLE,
        )
        for k, name in enumerate(names)
    )


def simulation(plan, share, count, accuracy=(0.98, 0.99), ideal=0.99, mse=(0.1, 0.3)):
    return SimulationRecord(
        plan=plan,
        seed=0,
        images=500,
        float_accuracy=ideal if accuracy else None,
        ideal_accuracy=ideal if accuracy else None,
        accuracy=accuracy,
        mse=mse,
        ideal_mse=0.0,
        energy=energy(plan, share, count),
    )


def energy(plan, share, count):
    return EnergyRecord(
        memory_j={name: share * RELIABLE for name in plan},
        memory_reliable_j=count * RELIABLE,
        unplaced_j=0.0,
        arithmetic_j=0.0,
    )


def allocation(point, share, names=("a.weight", "b:input"), simulated=True, **changes):
    """An allocation that gives each tensor a point and a share of its energy."""
    plan = {name: point[k % len(point)] if isinstance(point, list) else point
            for k, name in enumerate(names)}  # fmt: skip
    figures = {key: changes.pop(key) for key in ("accuracy", "mse") if key in changes}
    found = simulation(plan, share, len(names), **figures) if simulated else None
    attempt = AttemptRecord(
        energy=share,
        predicted_mse=0.2,
        seed=0,
        chips=2,
        confidence=0.975,
        bound=0.978,
        holds=True,
        margin=0.01,
        half_width=0.002,
        mean_accuracy=0.985,
        mean_mse=0.2,
    )
    made = AllocationEvidence(
        granularity=Granularity(),
        goal=MEAN,
        plan=plan,
        energy=energy(plan, share, len(names)),
        predicted_shift=0.05,
        predicted_variance=dict.fromkeys(names, 0.15 / len(names)),
        simulation=found,
        attempts=(attempt,) if simulated else (),
        chosen=0 if simulated else None,
        trials=(),
        at_goal=EnergyAtGoal(energy=share, low=0.99 * share, high=1.01 * share),
        holds=True if simulated else None,
        confidence=0.95,
        evaluations=7,
    )
    return made.model_copy(update=changes)


def allocation_record(*allocations, names=("a.weight", "b:input"), **changes):
    """Without allocations: one common point at half of the energy, and a point for each at 0.3."""
    common = allocation(0.5, 0.5, names, granularity=Granularity(per="network"))
    made = AllocationRecord(
        command="joulewise allocate",
        environment=Environment.now(),
        network="net",
        data="digits",
        images=500,
        device=SRAM,
        knob="eta",
        tensors=tensors(names),
        allocations=allocations or (common, allocation([0.4, 0.2], 0.3, names)),
    )
    return made.model_copy(update=changes)


def front(name, energies=(1.0, 0.5, 0.2), lost=(0.0, 0.01, 0.3), ideal=0.99, chips=2, **fields):
    """Plans at so many energies that lose so much; without targets where ``lost`` is None."""
    placed = tensors()
    points = []
    for share, less in zip(energies, lost or (0.0,) * len(energies), strict=True):
        accuracy = tuple(ideal - less + 0.001 * (k - (chips - 1) / 2) for k in range(chips))
        plan = {"a.weight": share, "b:input": (share,) * 8}
        points.append(
            FrontPointRecord(
                plan=plan,
                energy=share,
                predicted_mse=0.1 / share,
                simulation=simulation(
                    plan,
                    share,
                    len(placed),
                    accuracy=accuracy if lost else (),
                    ideal=ideal,
                    mse=tuple(0.1 / share + 0.01 * k for k in range(chips)),
                ),
            )
        )
    simulations = [point.simulation for point in points]
    within = [iso_accuracy(energies, simulations, d) for d in (0.005, 0.02)] if lost else []
    made = FrontRecord(
        name=name,
        device=SRAM,
        knob="eta",
        tensors=placed,
        reliable_j=len(placed) * RELIABLE,
        front=FrontEvidence(granularity=Granularity(), points=tuple(points), evaluations=3),
        within=tuple(within),
    )
    return made.model_copy(update=fields)


def front_comparison(*fronts, **changes):
    better = front("fine", lost=(0.0, 0.001, 0.2))
    chosen = fronts or (front("common"), better)
    made = FrontComparison(
        command="joulewise pareto",
        environment=Environment.now(),
        data="digits",
        images=500,
        chips=chosen[0].front.points[0].simulation.chips,
        seed=0,
        drops=(0.005, 0.02),
        fronts=chosen,
    )
    return made.model_copy(update=changes)
