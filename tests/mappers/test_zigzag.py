import json
from pathlib import Path

import pytest

from joulewise.errors import TableError
from joulewise.mappers import read_zigzag

RUN = Path(__file__).parent / "data" / "zigzag"
ACCELERATOR = RUN / "tpu_like.yaml"


def counts(table, **wanted):
    return {(r.component, r.action): r.count for r in table.filter(**wanted).rows}


def test_the_energies_are_those_that_zigzag_printed():
    table = read_zigzag(RUN, ACCELERATOR)
    printed = json.loads((RUN / "overall_simple.json").read_text())["energy"] * 1e-12
    assert table.total_j == pytest.approx(printed, rel=1e-12) == pytest.approx(567101.688e-12)
    for layer, energy in table.totals("layer").items():
        file = json.loads((RUN / f"{layer}_complete.json").read_text())["outputs"]["energy"]
        assert energy == pytest.approx(file["energy_total"] * 1e-12, rel=1e-12)
        arithmetic = table.filter(layer=layer, tensor="").total_j
        assert energy - arithmetic == pytest.approx(file["memory_energy"] * 1e-12, rel=1e-12)
        for operand, tensor in {"W": "weights", "I": "inputs", "O": "outputs"}.items():
            own = table.filter(layer=layer, tensor=tensor).total_j
            levels = file["memory_energy_breakdown_per_level"][operand]
            assert own == pytest.approx(sum(levels) * 1e-12, rel=1e-12)


def test_accesses_are_in_words():
    table = read_zigzag(RUN, ACCELERATOR)
    # 8 kernels of 9 words, written once to registers (8 bits) from DRAM (64 bits), and used at 64
    # positions; the 64 words of the input are read once.
    assert counts(table, layer="conv1", tensor="weights") == {
        ("rf_128B", "read"): 4608,
        ("rf_128B", "write"): 72,
        ("dram", "read"): 72,
    }
    assert counts(table, layer="conv1", tensor="inputs")["dram", "read"] == 64
    # Each of the 576 inputs that are used takes an access of 64 bits, 8 words.
    assert counts(table, layer="conv1", tensor="inputs")["sram_2MB", "read"] == 576 * 8
    # Partial sums of 16 bits in registers; 8 maps of 64 final outputs, of 8 bits, leave by 16 bits.
    assert counts(table, layer="conv1", tensor="outputs") == {
        ("rf_2B", "read"): 4608 + 512 / 8 * 16,
        ("rf_2B", "write"): 4608,
        ("sram_2MB", "read"): 512,
        ("sram_2MB", "write"): 512,
        ("dram", "write"): 512,
    }
    assert counts(table, layer="fc", tensor="weights")["dram", "read"] == 5120
    assert counts(table, tensor="", layer="fc") == {("operational_array", "compute"): 5120}


def test_a_file_is_one_layer():
    table = read_zigzag(RUN / "fc_complete.json", str(ACCELERATOR))
    assert table == read_zigzag(RUN, ACCELERATOR).filter(layer="fc")


def changed(tmp_path, change):
    """One layer's file, changed."""
    data = json.loads((RUN / "conv1_complete.json").read_text())
    change(data)
    (tmp_path / "conv1_complete.json").write_text(json.dumps(data))
    return tmp_path / "conv1_complete.json"


def accesses(data):
    return data["outputs"]["memory"]["word_accesses"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: accesses(data)["W"][0].update(rd_out_to_low=float("nan")),
            r"outputs.memory.word_accesses.W.0.rd_out_to_low is nan; allowed: a finite number",
        ),
        (
            lambda data: accesses(data)["W"][0].update(rd_out_to_low=-5),
            r"W.0.rd_out_to_low is -5; allowed: greater than or equal to 0",
        ),
        (
            lambda data: accesses(data)["W"][0].update(rd_out_to_low="many"),
            r"W.0.rd_out_to_low is 'many'; allowed: a valid number",
        ),
        (
            lambda data: data["outputs"].pop("energy"),
            r"outputs.energy.memory_energy_breakdown_per_level_per_operand is missing",
        ),
        (
            lambda data: accesses(data)["I"].append(accesses(data)["I"][0]),
            r"word_accesses.I is of 3 levels; allowed: 2, as have energies, of 2 memories",
        ),
        (
            lambda data: data["outputs"]["energy"].update(energy_total=7.0),
            r"the sum of all energies is 6.98132e-08 J; allowed: 7e-12 J, the total",
        ),
        (
            lambda data: data["inputs"]["accelerator"].update(name="other"),
            r"tpu_like.yaml: name is tpu_like; allowed: other, as in .*conv1_complete.json",
        ),
        (
            lambda data: data["inputs"]["layer"]["operand_precision"].pop("W"),
            r"the precision of W is 0 or missing; allowed: above 0",
        ),
        (
            lambda data: data["inputs"]["layer"].update(memory_operand_links={"W": "I2"}),
            r"word_accesses.O is of 3 levels; allowed: 3, as have energies, of 0 memories",
        ),
        (
            lambda data: data["inputs"]["layer"].update(name="a\nb"),
            r"conv1_complete.json: layer is 'a.nb'; allowed: printable text",
        ),
    ],
)
def test_a_malformed_file_is_refused_by_field(tmp_path, change, message):
    with pytest.raises(TableError, match=message):
        read_zigzag(changed(tmp_path, change), ACCELERATOR)


@pytest.mark.parametrize("content", ["", "[1, 2", "3", "[" * 100_000, "\xff", "{}"])
def test_what_is_no_result_is_refused(tmp_path, content):
    file = tmp_path / "a_complete.json"
    file.write_bytes(content.encode("latin1"))
    with pytest.raises(TableError, match=r"a_complete.json"):
        read_zigzag(file, ACCELERATOR)


def test_the_wrong_folder_and_two_files_of_one_layer_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"is a folder without \*_complete.json; allowed: one of"):
        read_zigzag(tmp_path, ACCELERATOR)
    for name in ("a", "b", "overall"):
        (tmp_path / f"{name}_complete.json").write_bytes((RUN / "fc_complete.json").read_bytes())
    with pytest.raises(TableError, match=r"b_complete.json: inputs.layer.name is fc again"):
        read_zigzag(tmp_path, ACCELERATOR)
    (tmp_path / "c_complete.json").mkdir()
    with pytest.raises(TableError, match=r"results of ZigZag .*c_complete.json cannot be read"):
        read_zigzag(tmp_path / "nowhere" / "c_complete.json", ACCELERATOR)


ALIASES = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(8 * ['*' + old])}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES + "name: x\nmemories: {m: {ports: *j}}", r"m.ports.0 is of type list; allowed"),
        ("name: [", r"accelerator.yaml is not plain YAML"),
        ("!!python/object/apply:os.getcwd []", r"is not plain YAML: could not determine"),
        ("name: tpu_like", r"accelerator.yaml: memories is missing"),
        (
            "name: tpu_like\nmemories: {}",
            r"O: an access is \(O, tl\); allowed: ports of 'rf_2B' in",
        ),
        ("name: tpu_like\nmemories: {rf_2B: {ports: 3}}", r"memories.rf_2B.ports is 3"),
    ],
)
def test_an_accelerator_that_does_not_fit_is_refused(tmp_path, text, message):
    (tmp_path / "accelerator.yaml").write_text(text)
    with pytest.raises(TableError, match=message):
        read_zigzag(RUN, tmp_path / "accelerator.yaml")
