import pytest
import torch
from torch import nn

import joulewise as jw
from joulewise.devices import SECDED, SRAM, Alternatives, Chip, Crossbar, Flip, Parity, Traffic
from joulewise.errors import InputError, OperatingPointError

PLAIN = SRAM(fault=Flip())
GUARDED = SRAM(fault=Flip(), protection=SECDED())
BOTH = Alternatives(memories=((PLAIN, (0.6, 0.8, 1.0)), (GUARDED, (0.5, 0.6, 0.7))))


def test_options_are_in_the_order_of_energy():
    traffic = Traffic(words=100, reads=100, writes=0)
    joules = [float(BOTH.energy(traffic, option)) for option in BOTH.points]
    assert joules == sorted(joules)
    names = [BOTH.label(option) for option in BOTH.points]
    assert set(names) < {f"secded, eta {x}" for x in (0.5, 0.6, 0.7)} | {
        f"eta {x:g}" for x in (0.6, 0.8, 1.0)
    }
    for option, (memory, point) in zip(BOTH.points, BOTH.options, strict=True):
        assert float(BOTH.energy(traffic, option)) == float(memory.energy(traffic, point))


def test_words_are_independent_on_all_memories_or_on_none():
    parity = SRAM(fault=Flip(), protection=Parity())
    assert Alternatives(memories=((PLAIN, (0.6, 1.0)), (parity, (0.9,)))).independent_words
    assert not BOTH.independent_words


def test_options_are_described_with_their_points():
    from joulewise.devices import DRAM

    one, other = (
        Alternatives(memories=((DRAM(), points),)) for points in ((10.0, 1.0), (20.0, 1.0))
    )
    assert one.describe() != other.describe()


def test_what_costs_more_than_the_most_reliable_option_is_left_out():
    parity = SRAM(fault=Flip(), protection=Parity())
    found = Alternatives(memories=((PLAIN, (0.6, 1.0)), (parity, (1.0,))))
    names = [found.label(option) for option in found.points]
    assert names == ["eta 0.6", "eta 1", "parity, eta 1"]  # zeros cost narrow weights little
    worse = Alternatives(memories=((PLAIN, (0.3, 0.7)), (GUARDED, (0.3, 0.69))))
    assert worse.label(worse.points[-1]) == "secded, eta 0.69"


def test_reads_and_moments_are_those_of_the_option():
    stored = BOTH.store(torch.linspace(-1, 1, 500))
    for option, (memory, point) in zip(BOTH.points, BOTH.options, strict=True):
        assert torch.equal(
            BOTH.read(stored, option, Chip(seed=4)), memory.read(stored, point, Chip(seed=4))
        )
        found, expected = BOTH.moments(stored, option), memory.moments(stored, point)
        assert torch.equal(found.mean, expected.mean) and torch.equal(found.var, expected.var)


def test_an_allocation_weighs_protection_against_supply():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    inputs = torch.randn(200, 12, generator=generator)
    levels = tuple(0.35 + 0.05 * k for k in range(14))
    data = jw.Split(inputs=inputs, targets=model(inputs).argmax(1))

    def least(memory, levels):
        placement = jw.place(model, weights=memory, example_inputs=inputs[:4])
        granularity = jw.Granularity(levels=levels)
        found = jw.allocate(
            placement, data, goal=jw.OutputError(3e-3), granularity=granularity, seed=0
        )
        assert found.holds is not False
        return float(found.energy.memory_total_j), found

    plain, _ = least(PLAIN, levels)
    guarded, _ = least(GUARDED, levels)
    memory = Alternatives(memories=((PLAIN, levels), (GUARDED, levels)))
    both, found = least(memory, memory.points)
    assert both <= min(plain, guarded) * (1 + 1e-9)
    chosen = [memory.label(point["option"]) for point in found.plan.values()]
    assert len(chosen) == 2 and all("eta" in name for name in chosen)


@pytest.mark.parametrize("option", [0.5, 1.5, -1, 99, float("nan"), "a", None])
def test_only_options_are_points(option):
    with pytest.raises(OperatingPointError, match="^option is "):
        BOTH.point(option=option)
    with pytest.raises(OperatingPointError, match="^option is "):
        BOTH.label(option)


def test_plans_and_levels_are_of_options():
    model, x = nn.Linear(4, 2), torch.ones(3, 4)
    placement = jw.place(model, weights=BOTH, example_inputs=x)
    message = "^option is 0.5; allowed: a whole number, 0 to 3"
    with pytest.raises(OperatingPointError, match=message):
        jw.simulate(placement, [(x, None)], at={"option": 0.5}, chips=2)
    with pytest.raises(OperatingPointError, match=message):
        jw.Granularity(levels=(0.5,)).check(placement)
    stored = BOTH.store(torch.ones(2))
    for function in (BOTH.moments, lambda stored, point: BOTH.read(stored, point, Chip(seed=0))):
        with pytest.raises(OperatingPointError, match=message):
            function(stored, 0.5)


def test_options_have_no_gradient():
    option = torch.tensor(1.0, requires_grad=True)
    model, x = nn.Linear(4, 2), torch.ones(3, 4)
    placement = jw.place(model, weights=BOTH, example_inputs=x)
    with pytest.raises(InputError, match="^Alternatives has no gradient in its operating point"):
        jw.predict(placement, [(x, None)], at={"option": option})
    with pytest.raises(InputError, match="^Alternatives has no gradient in its operating point"):
        BOTH.energy(Traffic(words=1, reads=1, writes=0), option)


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        (((PLAIN, (0.5,)),), "^memories is 1 options; allowed: two or more$"),
        (((PLAIN, (0.5, 2.0)),), "^eta is 2; allowed: 0 to 1$"),
        (((PLAIN, (0.5, 0.6)), (SRAM(bits=4), (0.5,))), "^bits of a memory is 4; allowed: 8, as"),
        (
            ((Crossbar(sigma=1e-6), (1e-5,)),),
            "^a memory is of type Crossbar; allowed: an SRAM",
        ),
        (((PLAIN,),), "^memories is not of pairs; allowed: a tuple of pairs"),
        ((PLAIN, (0.5, 0.6)), "^memories is not of pairs"),
        (((PLAIN, 0.5),), "^the points of a memory is 0.5 .float.; allowed: a tuple of numbers"),
        (((PLAIN, (x for x in (0.5, 0.6))),), "^the points of a memory is of type generator"),
        (((PLAIN, ("a", "b")),), "^a point of a memory is 'a' .str.; allowed: a number"),
        (((PLAIN, (None,)),), "^a point of a memory is None"),
        (((PLAIN, (0.5, [0.6])),), "^a point of a memory is of type list"),
    ],
)
def test_refusals(memories, message):
    with pytest.raises(InputError, match=message):
        Alternatives(memories=memories)
