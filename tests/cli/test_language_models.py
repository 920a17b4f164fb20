"""Commands on a language model of users' code: figures, and one sentence for what is wrong."""

import json

import pytest

from language_models import SOURCE

MORE = """
import joulewise as jw
def headless(): return llama().model
def beyond(): return [{"input_ids": ids, "labels": ids + 20}]
def padded(): return [{"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]}]
def shorter(): return [{"input_ids": ids, "labels": ids[:, :8]}]
def pairs(): return ids.float(), ids[:, 0]
class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(10, 3)
    def forward(self, input_ids): return self.layer(input_ids.float())
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.py"
    path.write_text(SOURCE + MORE)
    return path


def options(source, model="model", data="data"):
    given = ("--model", f"{source}:{model}", "--data", f"{source}:{data}")
    return (*given, "--at", "eta=0.4", "--place", "kv_cache=true")


def test_losses_are_predicted_and_checked(run, source):
    fisher = ("--method", "fisher:draws=1", "--check", 3)
    code, out, err = run("predict", *options(source), *fisher, "--json")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    assert result["method"] == "Fisher information"
    assert result["simulation"]["metric"]["name"] == "KL divergence of the next token"
    assert 0.3 < result["divergence"] / result["simulation"]["mean"] < 3
    code, out, err = run("predict", *options(source), *fisher)
    assert code == 0, err
    assert "divergence, nats" in out and "simulated [95 %]" in out
    assert "Contributions to the divergence" in out and "cache.0:key" in out


def test_perplexities_have_geometric_means(run, source):
    code, out, err = run(
        "simulate", *options(source), "--metric", "perplexity", "--chips", 3, "--json"
    )
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    product = 1.0
    for value in result["values"]:
        product *= value
    assert result["mean"] == pytest.approx(product ** (1 / 3))
    assert result["metric"]["geometric"] is True


def test_a_relative_goal_is_a_fraction_on_the_curve_too(run, source, tmp_path):
    code, out, err = run(
        *("allocate", *options(source)[:4], "--metric", "perplexity", "--goal", "drop=20%"),
        *("--granularity", "network", "--chips", 20, "--workers", 1, "--out", tmp_path / "found"),
    )
    assert code == 0, err
    assert "Within 20 % of perplexity of the next token" in out
    assert (tmp_path / "found/plan.json").is_file()
    assert "predicted_perplexity" in run("results", tmp_path / "found", "--csv")[1]


@pytest.mark.parametrize(
    ("command", "model", "data", "parts"),
    [
        ("simulate", "headless", "data", ["without a head", "allowed: one whose outputs are log"]),
        ("predict", "headless", "data", ["without a head", "allowed: one whose outputs are log"]),
        ("simulate", "model", "beyond", ["a target is", "beside outputs of 53 classes; allowed"]),
        ("predict", "model", "beyond", ["a target is", "beside outputs of 53 classes; allowed"]),
        ("simulate", "model", "padded", ["input_ids of a batch", "2 sequences of 1 and 2 tokens"]),
        ("simulate", "model", "shorter", ["shape of labels is [6, 8] beside input_ids [6, 10]"]),
        ("simulate", "Classifier", "data", ["Classifier, which takes no cache; allowed: a causal"]),
        ("simulate", "model", "missing", ["raised AttributeError"]),
    ],
)  # fmt: skip
def test_refusals(run, source, command, model, data, parts):
    chosen = {"simulate": ("--metric", "perplexity"), "predict": ("--method", "fisher")}[command]
    code, out, err = run(command, *options(source, model, data), *chosen)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_labels_of_tokens_are_none_of_a_classifier(run, source):
    given = ("--model", f"{source}:Classifier", "--data", f"{source}:data", "--at", "eta=0.4")
    code, _, err = run("simulate", *given, "--metric", "perplexity")
    assert code == 2
    assert "target of perplexity is int64 [3, 10] beside an output that is float32 [3, 3]" in err


def test_batches_of_mappings_are_not_trained_on(run, source, tmp_path):
    given = ("--model", f"{source}:model", "--data", f"{source}:data", "--epochs", 1)
    code, _, err = run("train", *given, "--out", tmp_path / "net.safetensors")
    assert code == 2
    assert "data is of type Batches; allowed: samples with classes" in err
