"""The examples run, and the memory in one of them keeps the contract of every memory."""

import importlib.util
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from contracts import check_device
from joulewise.data import load_digits
from joulewise.devices import ReadMoments
from joulewise.errors import InputError, OperatingPointError
from joulewise.models import build
from joulewise.placement import place
from joulewise.training import TrainingMemory, clip_weights

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_memory_of_your_own_keeps_the_contract():
    """With the moments of a log-normal read stated, as a method of its own."""

    class Stated(example("reram").ReRAM):
        def moments(self, stored, point):
            s = self.spread / torch.as_tensor(point, dtype=torch.float64).sqrt()
            return ReadMoments(mean=stored, var=stored.square() * torch.expm1(s.square()))

    check_device(Stated(), [4.0, 16.0])


def test_the_estimated_moments_of_a_memory_of_your_own_are_those_of_its_law():
    memory = example("reram").ReRAM()
    stored = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = memory.moments(stored, 4.0)
    spread, chips = math.expm1(0.25**2), moments.estimate.chips
    z = (moments.mean - stored) / (stored.abs() * (spread / chips) ** 0.5)
    assert float(z.square().mean()) == pytest.approx(1, abs=5 * (2 / 400) ** 0.5)
    ratio = (moments.var / (stored.square() * spread)).mean()
    assert float(ratio) == pytest.approx(1, abs=5 * (2.5 / chips / 400) ** 0.5)


def test_a_memory_of_your_own_refuses_other_knobs():
    with pytest.raises(OperatingPointError, match="given eta; allowed: pulses"):
        example("reram").ReRAM().point(eta=0.5)


def test_reram_runs(capsys):
    example("reram").main()
    lines = capsys.readouterr().out.splitlines()
    assert "states no moments to compare, they are estimated from 64 chips" in lines[0]
    titles = [line for line in lines if line.endswith("pulses:")]
    assert titles == ["1 pulses:", "4 pulses:", "16 pulses:"]
    assert sum(line.startswith("  accuracy") for line in lines) == 6


def test_robust_training_runs(capsys):
    example("robust_training").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["by_sgd", "by_samson", "through_a_memory"]
    intervals = [line.split("[")[1].split("]")[0].split(", ") for line in lines]
    plain, _, through = ([float(end) for end in interval] for interval in intervals)
    assert through[0] > plain[1]


# Other people's loops: the same weights as the plain loop in PyTorch.


def batches():
    return list(load_digits().train.subset(320).batches(64))


def network():
    return build("mlp", (1, 8, 8), 10, seed=0)


def plain_loop(optimizer_of, epochs, *, together=1, clip=None, memory=None, after=None):
    """Both passes over several batches, clipping, and a step: what every loop has to come to."""
    model = network()
    optimizer = optimizer_of(model)
    block = nullcontext() if memory is None else memory(model)

    def slopes(some):
        for inputs, targets in some:
            (F.cross_entropy(model(inputs), targets) / len(some)).backward()

    data = batches()
    for start in [*range(0, len(data) - together + 1, together)] * epochs:
        some = data[start : start + together]
        optimizer.zero_grad()
        with block:
            slopes(some)
            with optimizer.ascent():
                slopes(some)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if after is not None:
            after(model)
    return model


def difference(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.fixture(scope="module")
def in_lightning():
    pytest.importorskip("lightning", reason="Lightning is not installed")
    found = example("lightning_samson")
    found.EPOCHS = 2
    return found


# Of Lightning's own: with this PyTorch, and where a machine has many cores.
OF_LIGHTNING = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*workers")


@OF_LIGHTNING
@pytest.mark.parametrize("clip", [None, 0.2])
def test_lightning_climbs_with_automatic_optimization(in_lightning, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = in_lightning.fit(in_lightning.Digits(), batches(), gradient_clip_val=clip)
    wanted = plain_loop(in_lightning.optimizer_for, 2, clip=clip)
    # Lightning clips before the climb too, a factor that cancels but for rounding.
    assert difference(found, wanted) <= (0 if clip is None else 1e-6)
    assert difference(found, network()) > 0.01
    assert not list(tmp_path.iterdir())
    if clip is not None:
        assert difference(wanted, plain_loop(in_lightning.optimizer_for, 2)) > 0.01


@OF_LIGHTNING
def test_lightning_climbs_with_manual_optimization(in_lightning):
    found = in_lightning.fit(in_lightning.Accumulated(), batches()[:4])
    model = plain_loop(in_lightning.optimizer_for, 2, together=2, clip=1.0)
    assert difference(found, model) == 0
    assert difference(found, network()) > 0.01


@OF_LIGHTNING
def test_lightning_trains_through_a_memory(in_lightning):
    found = in_lightning.fit(in_lightning.ThroughMemory(), batches())
    wanted = plain_loop(
        in_lightning.optimizer_for,
        2,
        memory=lambda model: TrainingMemory(
            place(model, weights=in_lightning.CROSSBAR), at=in_lightning.AT, seed=0
        ),
        after=lambda model: clip_weights(model, deviations=2.0),
    )
    assert difference(found, wanted) == 0
    assert difference(found, plain_loop(in_lightning.optimizer_for, 2)) > 0.01


@OF_LIGHTNING
def test_lightning_is_refused_where_it_would_not_climb(in_lightning):
    """Accumulated batches above would be the last one alone; a step without a block none at all."""
    with pytest.raises(InputError, match="the closure is one that does not clear the gradients"):
        in_lightning.fit(in_lightning.Digits(), batches(), accumulate_grad_batches=2)

    class Plain(in_lightning.ThroughMemory):
        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    with pytest.raises(InputError, match="the closure is one that does not clear the gradients"):
        in_lightning.fit(Plain(), batches())


@OF_LIGHTNING
def test_lightning_samson_runs(in_lightning, capsys):
    in_lightning.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Digits", "Accumulated", "ThroughMemory"]


@pytest.fixture(scope="module")
def in_the_trainer():
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    found = example("huggingface_sam")
    found.EPOCHS = 2
    return found


def fit_by(module, trainer, **options):
    """The network, and the global generator as it was: the Trainer seeds it."""
    model, state = network(), torch.random.get_rng_state()
    inputs, labels = (torch.cat(part) for part in zip(*batches(), strict=True))
    try:
        module.fit(trainer, model, inputs, labels, **options)
    finally:
        torch.random.set_rng_state(state)
    return model


@pytest.mark.parametrize(("together", "clip"), [(1, None), (1, 0.2), (5, 0.2)])
def test_the_trainer_climbs(in_the_trainer, together, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = fit_by(
        in_the_trainer,
        in_the_trainer.SharpnessAwareTrainer,
        gradient_accumulation_steps=together,
        max_grad_norm=clip or 0.0,
    )
    wanted = plain_loop(in_the_trainer.optimizer_for, 2, together=together, clip=clip)
    assert difference(found, wanted) == 0
    assert difference(found, network()) > 0.001
    assert not list(tmp_path.iterdir())


def test_the_trainer_as_it_comes_is_refused(in_the_trainer):
    with pytest.raises(InputError, match=r"step\(\) is without an ascent, a plain step of base"):
        fit_by(in_the_trainer, in_the_trainer.Trainer)


def test_huggingface_sam_runs(in_the_trainer, capsys):
    state = torch.random.get_rng_state()
    in_the_trainer.main()
    torch.random.set_rng_state(state)
    lines = [line for line in capsys.readouterr().out.splitlines() if "batches in a step" in line]
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_a_language_model_to_a_plan_runs(capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    state = torch.random.get_rng_state()
    example("language_model").main(["--sequences", "4"])
    torch.random.set_rng_state(state)
    lines = capsys.readouterr().out.splitlines()
    assert sum("2% more perplexity holds" in line for line in lines) == 2
    assert [line.split(":")[0] for line in lines[-3:-1]] == ["clean", "faulty"]


@pytest.fixture
def finetuning(in_the_trainer, monkeypatch):
    found = example("huggingface_finetuning")
    for name, value in {"STEPS": 6, "MORE_STEPS": 3, "CHIPS": 2}.items():
        monkeypatch.setattr(found, name, value)
    state = torch.random.get_rng_state()
    yield found
    torch.random.set_rng_state(state)


def test_the_trainer_trains_through_a_memory(finetuning):
    """Its steps are those of AdamW in a plain loop, with a linear schedule and clipping."""
    train, _ = finetuning.letters()
    model, plain = finetuning.small_llama(), finetuning.small_llama()
    finetuning.fit(model, train, steps=3, rate=1e-3, memory=True)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0)
    memory = TrainingMemory(finetuning.placed(plain), at=finetuning.AT, seed=0)
    for step in range(3):
        rows = train[16 * step : 16 * step + 16]
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 3)
        optimizer.zero_grad()
        with memory:
            plain(input_ids=rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    assert difference(model, plain) < 1e-6
    assert difference(model, finetuning.small_llama()) > 1e-3


def test_adapters_leave_the_weights_as_they_are(finetuning):
    train, _ = finetuning.letters()
    model = finetuning.with_adapters(finetuning.small_llama())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    finetuning.fit(model, train, steps=3, rate=1e-3, memory=True)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    adapters = {name for name in before if name.endswith((".down", ".up"))}
    assert changed == adapters and len(adapters) == 2 * 7 * 2
    assert not adapters & {tensor.name for tensor in finetuning.placed(model).placed}


def test_huggingface_finetuning_runs(finetuning, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finetuning.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if ":" in line] == [
        "before",
        "all weights, plain steps",
        "all weights, through the memory",
        "adapters, through the memory",
    ]
    verdicts = [line for line in lines if line.startswith("  ")]
    assert len(lines) == 6 and all("beside plain steps" in verdict for verdict in verdicts)
    assert not list(tmp_path.iterdir())


def test_a_voltage_table_to_a_page_runs(capsys, tmp_path):
    example("voltage_table").main(tmp_path, epochs=1, chips=20)
    lines = capsys.readouterr().out.splitlines()
    assert sum("nJ of memory an inference, holds: True" in line for line in lines) == 4
    assert "What supply does each network need" in (tmp_path / "index.html").read_text()


def test_a_dask_study_runs(capsys, tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed")
    found = example("dask_study")
    found.main(tmp_path, epochs=1)
    assert "6 of 6 trials" in capsys.readouterr().out
    found.main(tmp_path, epochs=1)
    assert "6 done" in capsys.readouterr().out
