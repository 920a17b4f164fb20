"""Studies of language models: figures of records are those of the calls that they stand for."""

import pytest
import torch

from joulewise.devices import SRAM
from joulewise.errors import InputError, ModelError
from joulewise.metrics import KLDivergence, Perplexity
from joulewise.models import seeded
from joulewise.placement import loaded, place, token_energy
from joulewise.prediction import predict
from joulewise.simulation import simulate
from joulewise.study.entries import GenerationEntry
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from joulewise.study.tokens import token_result
from language_models import SOURCE, language_study, llama

IDS = torch.randint(53, (6, 10), generator=torch.Generator().manual_seed(0))
TEXT = [{"input_ids": some, "labels": some} for some in IDS.split(3)]


@pytest.fixture(scope="module")
def placement():
    with seeded(0):
        model = llama()
    example = {"input_ids": IDS[:3]}
    return place(model, weights=SRAM(), kv_cache=SRAM(), example_inputs=example)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    study = Study(StudyFile.model_validate(language_study(folder)), folder / "study")
    assert study.run() == {}
    return [record for _, record in study.records()]


def test_rows_have_geometric_means_and_predicted_losses(records, placement):
    row = records[0].rows()[1]
    found = simulate(placement, TEXT, at={"eta": 0.4}, chips=20, metric=Perplexity())
    assert row["mean"] == pytest.approx(found.mean, rel=1e-12)
    assert (row["low"], row["high"]) == pytest.approx(found.interval(), rel=1e-12)
    forecast = predict(placement, TEXT, at={"eta": 0.4}, method="fisher")
    assert row["predicted_perplexity"] == pytest.approx(forecast.perplexity)
    assert row["predicted_divergence"] == pytest.approx(float(forecast.divergence))
    assert row["predicted_error"] is None
    beside = simulate(placement, TEXT, at={"eta": 0.4}, chips=20, metric=KLDivergence())
    assert records[0].result["divergences"][1]["values"] == list(beside.values)
    assert row["divergence"] == pytest.approx(beside.mean)
    spent = token_energy(placement, at={"eta": 0.4}, context=9)
    assert row["prompt_token_j"] == pytest.approx(spent.prompt.total_j)
    assert row["generated_token_j"] == pytest.approx(spent.generated.total_j)


def test_tokens_are_those_of_the_calls(records, placement):
    result = records[0].result
    spent = token_energy(placement, at={"eta": 0.4}, context=9)
    assert result["tokens_at"][1]["energy"] == spent.to_dict()
    with loaded(placement, at={"eta": 0.2}, chip=0) as faulty:
        tokens = faulty.generate(torch.tensor([[0, 1, 2]]), max_new_tokens=4, do_sample=False)
    text = "".join(chr(97 + k) for k in tokens[0, 3:].tolist())
    assert result["tokens_at"][2]["text"] == text
    allocation = records[1].result
    (planned,) = allocation["tokens_at"]
    assert sum(planned["energy"]["generated"]["memory_j"].values()) < sum(
        allocation["tokens"]["energy"]["generated"]["memory_j"].values()
    )


def test_numbers_of_tokens_need_no_tokenizer(placement):
    entry = GenerationEntry(prompt=[0, 1, 2], new_tokens=4)
    found = token_result(placement, None, context=4, generation=entry, chip=0)
    assert len(found["text"].split()) == 4


def test_models_without_a_cache_have_no_joules_by_token():
    other = place(torch.nn.Linear(4, 3), weights=SRAM(), example_inputs=torch.ones(1, 4))
    found = token_result(other, None, context=4, generation=None, chip=0)
    assert found == {"energy": None, "text": None}
    entry = GenerationEntry(prompt=[0])
    with pytest.raises(ModelError, match="generation is given for a Linear, which generates no"):
        token_result(other, None, context=4, generation=entry, chip=0)


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "kind", "message"),
    [
        ("abc", "missing", InputError, "^generation.tokenizer is .*missing', which fails with"),
        ("abc", "fails", InputError, "which fails with OSError: no such tokenizer; allowed: a"),
        ("abc", "number", InputError, "which returns a int; allowed: an object with encode and"),
        ([99], "", ModelError, "^generation fails with IndexError: .*; allowed: a prompt"),
        ([1] * 9, "", ModelError, "^generation: .*positions .* is 11; allowed: at most 10"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_is_named(placement, tmp_path, prompt, tokenizer, kind, message):
    path = tmp_path / "text.py"
    path.write_text(SOURCE)
    entry = {"prompt": prompt, "tokenizer": f"{path}:{tokenizer}" if tokenizer else ""}
    with pytest.raises(kind, match=message):
        token_result(
            placement, None, context=4, generation=GenerationEntry(**entry, new_tokens=4), chip=0
        )


_CODE = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel
ids = torch.randint(53, (6, 10), generator=torch.Generator().manual_seed(0))
sizes = dict(vocab_size=53, n_positions=10, n_embd=8, n_layer=1, n_head=1)
tokens = dict(bos_token_id=None, eos_token_id=None)
gpt = lambda: GPT2LMHeadModel(GPT2Config(**sizes, **tokens))
text = lambda: [{"attention_mask": torch.ones_like(ids), "input_ids": ids, "labels": ids}]
class Net(torch.nn.Linear):
    def __init__(self): super().__init__(5, 3)
    def forward(self, x): return super().forward(x)
samples = lambda: [{"labels": torch.tensor([0, 1, 2, 0]), "x": torch.ones(4, 5)}]
"""


@pytest.mark.parametrize(("data", "model"), [("text", "gpt"), ("samples", "Net")])
def test_sequences_as_long_as_learned_positions_and_batches_without_tokens(tmp_path, data, model):
    path = tmp_path / "code.py"
    path.write_text(_CODE)
    fields = {"data": f"{path}:{data}", "models": [f"{path}:{model}"], "memories": ["sram"]}
    file = StudyFile.model_validate(fields | {"points": ["eta=0.5"], "chips": 2})
    study = Study(file, tmp_path / "study")
    assert study.run() == {}
    ((_, record),) = study.records()
    energy = record.result["tokens"]["energy"]
    assert energy["context"] == 9 if data == "text" else energy is None


def test_training_on_batches_of_mappings_is_refused(tmp_path):
    fields = language_study(tmp_path) | {"training": ["sgd"]}
    study = Study(StudyFile.model_validate(fields), tmp_path / "study")
    with pytest.raises(InputError, match="training is given for .* batches of mappings; allowed"):
        _ = study.cells
