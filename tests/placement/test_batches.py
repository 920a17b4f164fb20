"""Data as people have them."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from joulewise.data import Batches, Dataset, Split, load_digits
from joulewise.errors import DataError
from joulewise.placement.batches import prepare
from language_models import llama

X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 3
TOKENS = {"input_ids": Y.reshape(2, 5), "labels": Y.reshape(2, 5)}
MODEL = nn.Linear(4, 3)


def joined(batches):
    return torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])


@pytest.mark.parametrize(
    "data",
    [
        Split(inputs=X, targets=Y),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        (X, Y),
        [(X[:6], Y[:6]), (X[6:], Y[6:])],
        [[X, Y]],
        [(X, Y.tolist())],
        ((X[k : k + 5], Y[k : k + 5]) for k in (0, 5)),
    ],
    ids=["split", "dataset", "loader", "pair", "pairs", "lists", "numbers", "generator"],
)
def test_the_same_samples_from_any_source(data):
    inputs, targets = joined(prepare(data, MODEL))
    assert torch.equal(inputs, X) and torch.equal(targets, Y)


def test_a_loader_moves_no_random_state():
    state = torch.get_rng_state()
    prepare(DataLoader(TensorDataset(X, Y), shuffle=True), MODEL)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_of_a_mapping_are_targets():
    (batch,) = prepare([{"input_ids": X, "labels": Y}], MODEL)
    assert list(batch.inputs) == ["input_ids"] and batch.labels and torch.equal(batch.targets, Y)
    transformers = pytest.importorskip("transformers")
    (batch,) = prepare([transformers.BatchEncoding({"input_ids": X, "labels": Y})], MODEL)
    assert list(batch.inputs) == ["input_ids"] and torch.equal(batch.targets, Y)
    model = nn.Linear(4, 3)
    model.config = transformers.T5Config()
    (batch,) = prepare([{"input_ids": X, "labels": Y}], model)
    assert list(batch.inputs) == ["input_ids", "labels"] and torch.equal(batch.targets, Y)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[1, 2], [53, 0]]), "a token of input_ids is 53; allowed: 0 to 52"),
        (torch.tensor([[1, -1]]), "a token of input_ids is -1; allowed"),
        (torch.ones(1, 2), "type of input_ids is float32; allowed: integers"),
        (torch.ones(2, 0, dtype=torch.long), r"shape of input_ids is \[2, 0\]; allowed"),
    ],
)
def test_tokens_that_a_model_does_not_have(ids, message):
    with pytest.raises(DataError, match=message):
        prepare([{"input_ids": ids}], llama())


def test_several_inputs_and_targets_of_any_kind():
    (batch,) = prepare([((X, X), Y)], MODEL)
    assert len(batch.inputs) == 2 and torch.equal(batch.targets, Y)
    boxes = [{"boxes": X[:1]} for _ in range(10)]
    (batch,) = prepare([(X, boxes)], MODEL)
    assert torch.equal(batch.targets[3]["boxes"], X[:1])


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((X, X[:, :2]), r"data is a tuple of 2 tensors"),
        ((X[:0], Y[:0]), r"data is a tuple of 2 tensors"),
        ((X, X), r"data is a tuple of 2 tensors, .*; allowed: a list: \[\(inputs, targets\)\]"),
        (X, "data is a Tensor; allowed: .inputs, targets., batches"),
        ("digits", "data is a str; allowed: .inputs, targets., batches"),
        (3, "data is a int; allowed: .inputs, targets., batches"),
        (Endless(), "data is an IterableDataset, which knows no batches; allowed: a DataLoader"),
        (load_digits(), r"data is a Dataset; allowed: one of its splits, such as data\.test"),
        ([(X, Y), X], "the data is batches of different kinds"),
        ([X, (X, Y)], "the data is batches of different kinds"),
        ([{"a": X}, {"b": X}], "the data is batches of different kinds"),
        ([(X, Y[:3])], r"inputs whose first axis is 10 and targets of shape \(3,\)"),
        ([], "the data holds no batch"),
        (Batches(name="text", test=[TOKENS]), "data is a Batches; allowed: one of its splits"),
        (
            [{**TOKENS, "labels": Y.reshape(2, 5)[:, :4]}],
            r"shape of labels is \[2, 4\] beside input_ids \[2, 5\]; allowed: that of input_ids",
        ),
        (
            [{**TOKENS, "attention_mask": torch.ones(2, 4)}],
            r"shape of attention_mask .* is \[2, 4\] beside input_ids \[2, 5\]; allowed",
        ),
        (
            [{"input_ids": [[1, 2], [3]], "labels": Y[:2]}],
            "input_ids of a batch is a list of 2 sequences of 1 and 2 tokens; allowed: a tensor",
        ),
        (
            [{**TOKENS, "labels": [Y[:5], Y[:4]]}],
            "labels of a batch is a list of 2 sequences of 4 and 5 tokens; allowed: a tensor",
        ),
        ([{"input_ids": Y}], r"shape of input_ids of a batch is \[10\]; allowed: \[batch, tokens"),
    ],
)
def test_data_that_is_none_is_refused_by_name(data, said):
    assert isinstance(load_digits(), Dataset)
    with pytest.raises(DataError, match=said):
        prepare(data, MODEL)
