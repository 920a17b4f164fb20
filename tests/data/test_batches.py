"""Batches of mappings: from users' code, checked by name, and a subset that keeps its samples."""

import pytest
import torch

from joulewise.data import Batches, load_data
from joulewise.errors import DataError

IDS = torch.arange(12).reshape(4, 3)
TEXT = {"input_ids": IDS, "labels": IDS}


def test_a_subset_keeps_samples_and_their_order():
    data = Batches(name="text", test=[TEXT, {name: ids[:2] + 20 for name, ids in TEXT.items()}])
    assert (len(data), data.input_shape, data.classes) == (6, (3,), 26)
    some = data.subset(4)
    assert len(some) == 4
    rows = torch.cat([batch["input_ids"] for batch in some.test])
    assert torch.equal(rows, torch.cat([batch["labels"] for batch in some.test]))
    assert rows[:, 0].tolist() == sorted(rows[:, 0].tolist())
    assert torch.equal(data.subset(6).test[0]["input_ids"], IDS)


def test_the_longest_batch_is_the_one_of_the_longest_sequences():
    longer = {name: torch.ones(1, 5, dtype=torch.long) for name in TEXT}
    data = Batches(name="text", test=[TEXT, longer])
    assert data.longest is longer
    assert data.input_shape == (5,)


SOURCES = """
import torch
ids = torch.arange(12).reshape(4, 3)
whole = lambda: {"input_ids": ids, "labels": ids}
several = lambda: [{"input_ids": some.tolist() , "labels": some} for some in ids.split(2)]
arrays = lambda: [{"input_ids": some.numpy(), "labels": some.numpy()} for some in ids.split(2)]
class Samples(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, k): return {"input_ids": ids[k], "labels": ids[k]}
samples = lambda: Samples()
ragged = lambda: [{"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]}]
beside = lambda: [{"input_ids": ids, "labels": ids}, (ids, ids)]
other = lambda: [{"input_ids": ids}, {"input_ids": ids, "labels": ids}]
fewer = lambda: [{"input_ids": ids, "labels": ids[:2]}]
scalar = lambda: [{"input_ids": ids, "use_cache": torch.tensor(1)}]
empty = lambda: [{"input_ids": ids[:0]}]
one = lambda: [{"input_ids": ids[0]}]
masked = lambda: [{"input_ids": ids, "attention_mask": ids[:, :2]}]
words = lambda: [{"input_ids": ids, "text": ["a", "b", "c", "d"]}]
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.py"
    path.write_text(SOURCES)
    return path


@pytest.mark.parametrize(
    ("function", "sizes"), [("whole", [4]), ("arrays", [2, 2]), ("samples", [4])]
)
def test_users_functions_give_mappings(source, function, sizes):
    data = load_data(f"{source}:{function}")
    assert isinstance(data, Batches)
    assert [len(batch["input_ids"]) for batch in data.test] == sizes
    assert torch.equal(torch.cat([batch["labels"] for batch in data.test]), IDS)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("ragged", r"^input_ids of a batch .* 2 sequences of 1 and 2 tokens; .* attention_mask of"),
        ("several", r"^input_ids of a batch .* 2 sequences of 3 tokens; allowed: a tensor"),
        ("beside", "a tuple beside mappings; allowed: mappings alone"),
        ("other", "with input_ids, labels, beside batches with input_ids; allowed: the same"),
        ("fewer", "the first axis .* input_ids with 4, labels with 2; allowed: one number"),
        ("scalar", r"use_cache .* is of shape \[\]; allowed: a tensor whose first axis"),
        ("empty", r"input_ids .* is of shape \[0, 3\]; allowed"),
        ("one", r"shape of input_ids .* is \[3\]; allowed: \[batch, tokens\]"),
        ("masked", r"shape of attention_mask .* is \[4, 2\] beside input_ids \[4, 3\]; allowed"),
        ("words", "text of batch 0 .* is a list; allowed: a tensor"),
    ],
)
def test_malformed_batches_are_named(source, function, message):
    with pytest.raises(DataError, match=message):
        load_data(f"{source}:{function}")


def test_no_batch_is_refused():
    with pytest.raises(DataError, match="the batches of text is empty; allowed: at least one"):
        Batches(name="text", test=[])
