"""AccelForge needs Python 3.12: a stand-in gives what its mapping gave in the run of the data."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from joulewise.errors import TableError
from joulewise.mappers import read_accelforge

FILE = Path(__file__).parent / "data" / "accelforge" / "mapping.json"
COLUMNS = json.loads(FILE.read_text())
TENSORS = {
    ("fc1", "W1"): "weights",
    ("fc1", "T0"): "inputs",
    ("fc1", "T1"): "outputs",
    ("fc2", "W2"): "weights",
    ("fc2", "T1"): "inputs",
    ("fc2", "T2"): "outputs",
}
# Words of 8 bits; 16 and 64 bits an action, as arch.yaml says.
WORDS = {"GlobalBuffer": 2, "MainMemory": 8}


def mapping(columns=COLUMNS, **own):
    """A mapping with the specification of the data, as AccelForge evaluates it."""

    def memory(bits):
        actions = {
            name: SimpleNamespace(bits_per_action=bits, values_per_action={})
            for name in ("read", "write")
        }
        return SimpleNamespace(
            **{"actions": actions, "values_per_action": {}, "bits_per_value": {}} | own
        )

    memories = {"GlobalBuffer": memory(16), "MainMemory": memory(64)}
    specs = {}
    for einsum in ("fc1", "fc2"):
        roles = {role: tensor for (e, tensor), role in TENSORS.items() if e == einsum}
        workload = SimpleNamespace(
            renames=[
                SimpleNamespace(name=name, source={roles[f"{name}s"]})
                for name in ("weight", "input", "output")
            ]
            + [SimpleNamespace(name="All", source=set(roles.values()))],
            tensor_accesses={t: SimpleNamespace(bits_per_value=8) for t in roles.values()},
        )
        specs[einsum] = SimpleNamespace(
            workload=SimpleNamespace(einsums={einsum: workload}),
            arch=SimpleNamespace(find=memories.__getitem__),
        )
    return SimpleNamespace(to_dict=lambda: columns, evaluated_specs=specs)


@pytest.mark.parametrize("source", ["file", "mapping"])
def test_energies_and_words_are_those_of_accelforge(source):
    if source == "file":
        table = read_accelforge(FILE, tensors=TENSORS, words_per_action=WORDS)
    else:
        table = read_accelforge(mapping())
    assert table.total_j == pytest.approx(3.930851515299165e-09, rel=1e-12)  # mapping.energy()
    assert table.totals("action")["leak"] == pytest.approx(2.048e-12 + 0.32e-12, rel=1e-6)
    assert table.layers == ("fc1", "fc2")
    weights = table.filter(tensor="weights")
    # 64 x 32 and 32 x 10 weights, each read once from main memory into the buffer and used once.
    for layer, words in {"fc1": 2048, "fc2": 320}.items():
        found = {(r.component, r.action): r.count for r in weights.filter(layer=layer).rows}
        assert found == {
            ("GlobalBuffer", "read"): words,
            ("GlobalBuffer", "write"): words,
            ("MainMemory", "read"): words,
        }
    (inputs,) = table.filter(layer="fc1", tensor="inputs", component="MainMemory").rows
    assert (inputs.count, inputs.joules) == (64, 5.624e-11)
    assert table.filter(action="compute").totals("layer").keys() == {"fc1", "fc2"}
    assert [r.count for r in table.filter(action="compute").rows] == [2048, 320]


def test_values_per_action_come_before_bits():
    table = read_accelforge(mapping(values_per_action={"W1": 3}))
    found = table.filter(layer="fc1", tensor="weights", component="MainMemory")
    assert found.rows[0].count == 256 * 3
    given = read_accelforge(mapping(), words_per_action={"GlobalBuffer": 1, "MainMemory": 1})
    assert given.filter(tensor="weights", component="MainMemory").rows[0].count == 256


def test_tensors_without_a_role_keep_their_names():
    table = read_accelforge(FILE, words_per_action=WORDS)
    assert list(table.totals("tensor")) == ["T0", "T1", "W1", "", "T2", "W2"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fc1<SEP>action<SEP>MainMemory<SEP>W1<SEP>read", [1, 2], "is of 2 mappings; allowed: one"),
        ("fc1<SEP>action<SEP>MainMemory<SEP>W1<SEP>read", -1, "W1<SEP>read is -1; allowed: 0 to"),
        ("fc1<SEP>energy<SEP>MainMemory<SEP>W1<SEP>read", "x", "W1<SEP>read is 'x'"),
        ("fc1<SEP>energy<SEP>MainMemory<SEP>leak", float("nan"), "leak is nan; allowed: 0 to 1e"),
        ("Total<SEP>energy", 1e-9, "the sum of all energies is 3.93085e-09 J; allowed: 1e-09 J"),
        ("Total<SEP>energy", 1, "the sum of all energies is 3.93085e-09 J; allowed: 1 J"),
        ("Total<SEP>energy", "3.93e-9", "Total<SEP>energy is '3.93e-9' .str.; allowed: a number"),
    ],
)
def test_malformed_columns_are_refused_by_name(tmp_path, name, value, message):
    (tmp_path / "m.json").write_text(json.dumps(COLUMNS | {name: value}))
    with pytest.raises(TableError, match=f"m.json: .*{message}"):
        read_accelforge(tmp_path / "m.json", words_per_action=WORDS)
    with pytest.raises(TableError, match=f"the mapping: .*{message}"):
        read_accelforge(mapping(COLUMNS | {name: value}))


def without(*columns):
    return {name: value for name, value in COLUMNS.items() if name not in columns}


def test_energies_that_are_not_stated_are_not_zero():
    words = "fc1<SEP>{}<SEP>MainMemory<SEP>W1<SEP>read"
    columns = without(words.format("energy"))
    columns["Total<SEP>energy"] -= COLUMNS[words.format("energy")]
    table = read_accelforge(mapping(columns))
    (row,) = table.filter(layer="fc1", tensor="weights", component="MainMemory").rows
    assert (row.count, row.joules) == (2048, None)
    with pytest.raises(TableError, match="the sum of all energies is 2.13117e-09 J; allowed: 3.9"):
        read_accelforge(mapping(without(words.format("energy"))))
    uncounted = without(words.format("action"))
    with pytest.raises(TableError, match=f"{words.format('action')} is missing; allowed: a count"):
        read_accelforge(mapping(uncounted))
    with pytest.raises(TableError, match="Total<SEP>energy is missing; allowed: the sum of all"):
        read_accelforge(mapping(without("Total<SEP>energy")))


def test_a_mapping_without_energies_has_counts_alone():
    table = read_accelforge(mapping({n: v for n, v in COLUMNS.items() if "<SEP>action<SEP>" in n}))
    assert {row.joules for row in table.rows} == {None}
    assert sum(row.count for row in table.filter(action="compute").rows) == 2368


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"words_per_action": 5}, "words_per_action is 5 .int.; allowed: words by component"),
        ({"words_per_action": WORDS | {"MainMemory": 0}}, "of 'MainMemory' is 0; allowed: above 0"),
        ({"words_per_action": WORDS | {"MainMemory": True}}, "of 'MainMemory' is True .bool.; all"),
        ({"words_per_action": WORDS | {"MainMemory": None}}, "of 'MainMemory' is None .NoneType.;"),
        ({"tensors": "x"}, r"tensors is 'x' \(str\); allowed: roles by \(Einsum, name\)"),
        (
            {"tensors": {("fc1", "W2"): "weights"}},
            r"tensors is \('fc1', 'W2'\): 'weights'; allowed",
        ),
        ({"tensors": {"W1": "weights"}}, r"tensors is 'W1': 'weights'; allowed: a role of \('fc1'"),
        ({"tensors": {("fc1", "W1"): 5}}, r"tensors is \('fc1', 'W1'\): 5; allowed: a role of"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(own, message):
    with pytest.raises(TableError, match=message):
        read_accelforge(FILE, **({"words_per_action": WORDS} | own))
    with pytest.raises(TableError, match=message):
        read_accelforge(mapping(), **own)


def test_what_is_no_mapping_is_refused(tmp_path):
    with pytest.raises(TableError, match="words_per_action is MainMemory; allowed: one for Global"):
        read_accelforge(FILE, words_per_action={"MainMemory": 8})
    with pytest.raises(
        TableError, match=r"words_per_action is none; allowed: one for GlobalBuffer"
    ):
        read_accelforge(FILE)
    with pytest.raises(TableError, match="the mapping is of type dict; allowed: a mapping of Acc"):
        read_accelforge(COLUMNS)
    for text in ("", '{"a": ', "[1]", "[" * 100_000, "{}"):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(TableError, match="m.json|without rows"):
            read_accelforge(tmp_path / "m.json")
    with pytest.raises(TableError, match="the mapping .* cannot be read"):
        read_accelforge(tmp_path)
