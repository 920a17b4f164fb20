import pytest

from joulewise.devices import (
    PCM,
    SRAM,
    Array,
    CorrelatedMap,
    Crossbar,
    ExponentialLaw,
    Flip,
    Stuck,
    VoltageTable,
)
from joulewise.devices.reliability_laws import VoltageRow
from joulewise.report.provenance import (
    about_devices,
    device_facts,
    devices,
    network_facts,
    run_facts,
    training_facts,
)

TABLE = VoltageTable(
    rows=(VoltageRow(0.5, 1e-14, 1e-2), VoltageRow(0.7, 2e-14, 1e-4)), source="made up, 2026"
)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (SRAM(bits=5), "5 bits"),
        (SRAM(channel_dim=0, limit=0.5), "one for each index of axis 0"),
        (SRAM(fault=Flip(zero_to_one=0.5)), "0.5"),
        (SRAM(fault=Stuck(at_one=0.25)), "always reads the same value"),
        (SRAM(fault_map=CorrelatedMap(row=0.125)), "0.125"),
        (SRAM(law=TABLE), "made up, 2026"),
        (SRAM(law=TABLE), "0.5: 10 fJ, 0.01; 0.7: 20 fJ, 0.0001"),
        (SRAM(), "Horowitz, ISSCC 2014"),
        (SRAM(), "arXiv 1911.10287"),
        (Crossbar(sigma=1e-6), "1 uS"),
        (Crossbar(), "100 nS to 1 mS"),
        (Crossbar(), "Shafiee"),
        (Crossbar(array=Array(rows=128, output_bits=8)), "8 bits"),
        (PCM(), "1 s to 10.1 years"),
        (PCM(), "one RESET pulse"),
    ],
)
def test_device_in_words(device, said):
    facts = device_facts(device.describe())
    assert len(facts) == len(device.describe())
    assert any(said in fact.text for fact in facts)


def test_a_price_of_ones_own_is_not_given_a_source():
    law = ExponentialLaw(nominal_energy_per_bit_j=1e-13)
    assert not any("Horowitz" in fact.text for fact in device_facts(SRAM(law=law).describe()))


def test_a_device_that_is_not_known_is_still_described():
    facts = device_facts({"device": "abacus", "beads": 1e-5, "clipped": True})
    assert [(fact.label, fact.text) for fact in facts] == [
        ("Memory", "abacus"),
        ("Beads", "1e-05"),
        ("Clipped", "yes"),
    ]


def test_run_with_gaps_is_said_to_have_them(cases):
    comparison = cases.comparison(cases.contender("mlp", chips=1), command="", arithmetic={})
    facts = {fact.label: fact.text for fact in run_facts(comparison)}
    assert facts["Command"] == "not recorded"
    assert facts["Multiply-accumulate"] == "not recorded"
    assert facts["Chips"].startswith("1, seed 7;")


def test_networks_trained_alike_are_said_together(cases):
    comparison = cases.comparison(
        cases.contender("a"), cases.contender("b", trained=False), cases.contender("c")
    )
    labels = [fact.label for fact in training_facts(comparison)]
    assert labels == ["a, c", "b"]


def test_network_figures(cases):
    facts = network_facts(cases.contender("mlp"))
    assert (facts.parameters, facts.weights, facts.activations) == ("12,345", "12,000", "640")
    assert (facts.macs, facts.trained_accuracy) == ("1,200,000", "95.12 %")
    assert (facts.float_accuracy, facts.ideal_accuracy) == ("95.10 %", "95.00 %")


def test_each_memory_is_described_once_with_what_lies_on_it(cases):
    same = [cases.contender(name) for name in ("a", "b")]
    analog = {"weights_device": Crossbar().describe(), "activations_device": None}
    other = cases.contender("c").model_copy(update=analog)
    assert [heading for heading, _ in devices(cases.comparison(*same))] == [
        "Memory of weights and activations"
    ]
    mixed = cases.comparison(*same, other)
    assert [heading for heading, _ in devices(mixed)] == [
        "Memory of weights and activations: a, b",
        "Memory of weights: c",
        "Memory of activations: c",
    ]
    assert [about.split()[:2] for about in about_devices(mixed)] == [
        ["A", "chip"],
        ["A", "crossbar"],
    ]
