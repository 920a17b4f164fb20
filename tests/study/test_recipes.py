from dataclasses import replace

import pytest
from safetensors import safe_open

from joulewise.data import load_digits
from joulewise.errors import InputError, ModelError
from joulewise.models import build, load_weights, save_weights
from joulewise.study import MemorySpec, PlacementSpec, Recipe, train_networks
from joulewise.training import TrainingRecord, TrainingSpec

COMMON = TrainingSpec(epochs=1, batch_size=512, lr=0.1)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def trained(digits, folder, text, model="mlp", **options):
    epochs = []
    options = {"common": COMMON, "seeds": (0, 1), "folder": folder} | options
    paths = train_networks(
        model,
        digits,
        Recipe.parse(text),
        progress=epochs.append,
        **({"placement": PlacementSpec()} | options),
    )
    return paths, len(epochs)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sgd", ("sgd", None, None, None, False)),
        ("samsoninf:0.2", ("samsoninf", 0.2, None, None, False)),
        ("sgd+clip", ("sgd", None, 2.0, None, False)),
        ("sgd+clip:1.5+memory:0.4", ("sgd", None, 1.5, 0.4, False)),
        ("sam:0.05+memory:2e-5+long", ("sam", 0.05, None, 2e-5, True)),
    ],
)
def test_parts_in_short_words(text, found):
    recipe = Recipe.parse(text)
    got = (recipe.method, recipe.rho, recipe.clip, recipe.point, recipe.long)
    assert got == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adam", "no method 'adam'"),
        ("", "no method ''"),
        ("sgd+dropout", "'dropout'"),
        ("sgd+memory", "'memory'"),
        ("sgd+long:2", "'long:2'"),
        ("sgd+clip+clip", "'clip'"),
        ("sgd+perfect:1", "'perfect:1'"),
        ("sgd+perfect+memory:0.4", "two memories"),
        ("sgd+ranges", "no memory to learn them in"),
        ("sam:big", "'big' after sam"),
    ],
)
def test_refuses_what_is_no_part(text, said):
    with pytest.raises(InputError, match="allowed: METHOD") as refusal:
        Recipe.parse(text)
    assert said in str(refusal.value)


@pytest.mark.parametrize("text", ["sgd+clip:0", "sam:-1", "sgd:0.1"])
def test_refuses_numbers_out_of_range_before_training(text):
    with pytest.raises(InputError, match="cannot be followed"):
        Recipe.parse(text).spec(COMMON, 0)


@pytest.mark.parametrize("through", ["perfect", "memory:0.4"])
def test_ranges_are_learned_in_a_memory(digits, tmp_path, through):
    text = f"sgd+ranges+{through}"
    (path,), epochs = trained(digits, tmp_path, text, seeds=(0,))
    with safe_open(path, "pt") as file:
        record = TrainingRecord.model_validate_json(file.metadata()["training"])
    assert epochs == 1 and record.memory is not None
    assert len(record.memory["ranges"]) == 3
    assert (record.memory["chips"] == "perfect") == (through == "perfect")
    assert trained(digits, tmp_path, text, seeds=(0,))[1] == 0


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("sgd+perfect", {"device": "crossbar", "sigma": 1e-6}),
        ("sgd+memory:2e-5", {"device": "crossbar"}),
        ("sgd+memory:0.4", {"common_range": True}),
    ],
)
def test_memories_that_training_cannot_use_are_refused(digits, tmp_path, text, memory):
    spec = PlacementSpec(memory=MemorySpec(**memory))
    with pytest.raises(InputError, match="reads weights exactly|common_range"):
        trained(digits, tmp_path, text, placement=spec)
    # The memory of the comparison alone.
    assert trained(digits, tmp_path, "sgd", placement=spec)[1] == 2


def test_ranges_are_searched_only_for_what_is_trained(digits, tmp_path, monkeypatch):
    assert trained(digits, tmp_path, "sgd+perfect+ranges", seeds=(0,))[1] == 1
    monkeypatch.setattr("joulewise.study.spec.LearnedRanges", None)
    assert trained(digits, tmp_path, "sgd+perfect+ranges", seeds=(0,))[1] == 0


def test_what_is_common_and_what_is_not():
    spec = Recipe.parse("asam:0.5+clip+long").spec(COMMON, seed=7)
    assert (spec.method, spec.rho, spec.clip, spec.epochs, spec.seed) == ("asam", 0.5, 2.0, 2, 7)
    assert (spec.batch_size, spec.lr) == (512, 0.1)


def test_a_network_that_is_there_is_not_trained_again(digits, tmp_path):
    paths, epochs = trained(digits, tmp_path, "sgd")
    assert [path.name for path in paths] == ["sgd-0.safetensors", "sgd-1.safetensors"]
    assert epochs == 2
    first = paths[0].read_bytes()
    assert trained(digits, tmp_path, "sgd")[1] == 0
    paths[1].unlink()
    again, epochs = trained(digits, tmp_path, "sgd")
    assert epochs == 1 and again[0].read_bytes() == first


@pytest.mark.parametrize(
    "changed", [{"common": COMMON.model_copy(update={"lr": 0.2})}, {"seeds": (0, 2)}]
)
def test_another_recipe_or_seed_is_trained(digits, tmp_path, changed):
    trained(digits, tmp_path, "sgd")
    assert trained(digits, tmp_path, "sgd", **changed)[1] > 0


def test_a_model_that_was_edited_is_trained(digits, tmp_path):
    file = tmp_path / "mine.py"
    text = """
from torch import nn

def net(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, classes))
"""
    model = f"{file}:net"
    file.write_text(text)
    assert trained(digits, tmp_path, "sgd", model)[1] == 2
    assert trained(digits, tmp_path, "sgd", model)[1] == 0
    file.write_text(text.replace("Tanh", "SiLU"))
    assert trained(digits, tmp_path, "sgd", model)[1] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda split: {"inputs": 1.05 * split.inputs},
        lambda split: {"targets": 9 - split.targets},
    ],
)
def test_other_data_of_that_name_are_trained_on(digits, tmp_path, change):
    other = replace(digits, train=replace(digits.train, **change(digits.train)))
    assert trained(digits, tmp_path, "sgd", seeds=(0,))[1] == 1
    assert trained(other, tmp_path, "sgd", seeds=(0,))[1] == 1


def test_a_file_of_an_older_version_is_taken_by_the_names(digits, tmp_path):
    (path,), _ = trained(digits, tmp_path, "sgd", seeds=(0,))
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    metadata = load_weights(model, path)
    del metadata["sample"]
    save_weights(model, path, metadata)
    assert trained(digits, tmp_path, "sgd", seeds=(0,))[1] == 0


def test_a_model_that_fails_is_refused_in_a_sentence(digits, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("from torch import nn\n\ndef net():\n    return nn.Linear(63, 10)\n")
    with pytest.raises(ModelError, match="the model fails on inputs of shape"):
        trained(digits, tmp_path, "sgd", f"{file}:net")


def test_a_file_that_is_something_else_is_replaced(digits, tmp_path):
    (tmp_path / "sgd-0.safetensors").write_bytes(b"half a file")
    paths, epochs = trained(digits, tmp_path, "sgd", seeds=(0,))
    assert epochs == 1 and paths[0].stat().st_size > 1000


def test_a_memory_is_part_of_what_was_done(digits, tmp_path):
    paths, epochs = trained(digits, tmp_path, "sgd+memory:0.4", seeds=(3,))
    assert [path.name for path in paths] == ["sgd-memory-0.4-3.safetensors"] and epochs == 1
    with safe_open(paths[0], "pt") as file:
        assert '"eta"' in file.metadata()["training"] or "0.4" in file.metadata()["training"]
    assert trained(digits, tmp_path, "sgd+memory:0.4", seeds=(3,))[1] == 0
    # The same name, another memory.
    fewer = PlacementSpec(memory=MemorySpec(bits=4))
    other, epochs = trained(digits, tmp_path, "sgd+memory:0.4", seeds=(3,), placement=fewer)
    assert other == paths and epochs == 1
