"""Parts of a computation on executors: the same figures, whatever the workers; how they fail."""

import functools
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import joulewise as jw
from joulewise.data import load_digits
from joulewise.errors import InputError, ModelError
from joulewise.models import build
from joulewise.prediction import Corrected, FirstOrder
from joulewise.workers import spread
from parts import fall, threads, total


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture
def placement(digits):
    model = build("cnn", digits.input_shape, digits.classes, seed=0)
    return jw.place(model, weights=jw.SRAM(bits=8))


class Deaf(torch.nn.Linear):
    """Its noise has no effect."""

    def forward(self, inputs):
        return inputs.flatten(1)[:, :10] + 0 * self.weight.sum()


class Immediate(Executor):
    """Computes in the calling thread; ``change`` is applied to each function first."""

    def __init__(self, change=lambda function: function):
        self.change = change

    def submit(self, fn, /, *args):
        future = Future()
        try:
            future.set_result(self.change(fn)(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def far_away(function):
    """The function in a worker that does not see the file of the data."""
    digest, path, *rest = function.args
    assert path.is_file()
    return functools.partial(function.func, digest, Path("/missing"), *rest)


def figures(simulations):
    return [(one.values, one.mse, one.to_dict()) for one in simulations]


@pytest.mark.parametrize("kind", ["processes", "threads", "far away"])
def test_simulations_are_the_same(pool, digits, placement, kind):
    given = {"at": [{"eta": 0.5}, {"eta": 0.35}], "chips": 20, "seed": 3, "batch_size": 100}
    expected = figures(jw.sweep(placement, digits.test, **given))
    executors = {
        "processes": pool,
        "threads": ThreadPoolExecutor(2),
        "far away": Immediate(far_away),
    }
    found = jw.sweep(placement, digits.test, executor=executors[kind], **given)
    assert figures(found) == expected


def test_sequential_stopping_is_the_same(pool, digits, placement):
    given = {"at": {"eta": 0.4}, "chips": 200, "half_width": 0.03}
    expected = jw.simulate(placement, digits.test, **given)
    found = jw.simulate(placement, digits.test, executor=pool, **given)
    assert expected.chips < 200
    assert found.values == expected.values


@pytest.mark.parametrize(
    "method", [FirstOrder(accuracy=False), FirstOrder(chips=3, single_faults=8), "second-order"]
)
def test_predictions_are_the_same(pool, digits, placement, method):
    given = {"at": {"eta": 0.4}, "method": method, "batch_size": 100}
    expected = jw.predict(placement, digits.test, **given)
    found = jw.predict(placement, digits.test, executor=pool, **given)
    assert found.to_dict() == expected.to_dict()
    assert torch.equal(found.per_sample, expected.per_sample)


def test_probes_depend_on_the_number_of_the_batch_alone(digits, placement):
    batches = [inputs for inputs, _ in digits.test.batches(50)]
    method = FirstOrder(accuracy=False)

    def second(first):
        given = [first, batches[1]]
        forecast = jw.predict(placement, given, at={"eta": 0.4}, method=method)
        return forecast.per_sample[-50:]

    assert torch.equal(second(batches[0]), second(batches[2]))
    swapped = jw.predict(placement, batches[1::-1], at={"eta": 0.4}, method=method)
    assert not torch.equal(swapped.per_sample[:50], second(batches[0]))


def test_workers_use_the_threads_of_the_caller(pool):
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with spread(pool, ()) as workers:
                assert list(workers.map(threads, range(3))) == [count] * 3
    finally:
        torch.set_num_threads(before)


def test_progress(digits, placement):
    seen = []
    given = {"executor": Immediate(), "progress": lambda *step: seen.append(step)}
    jw.simulate(placement, digits.test, at={"eta": 0.4}, chips=5, **given)
    jw.predict(placement, digits.test, at={"eta": 0.4}, batch_size=100, **given)
    assert seen[4] == ("simulating", 5, 5)
    assert seen[-1] == ("predicting", 6, 6)


def test_users_files_are_imported_in_workers(pool, digits, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential): pass\n"
        "def net(): return Net(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    model = jw.load_model(f"{tmp_path}/mine.py:net", digits.input_shape, digits.classes, seed=0)
    placement = jw.place(model, weights=jw.SRAM())
    found = jw.simulate(placement, digits.test, at={"eta": 0.4}, chips=3, executor=pool)
    assert found.values == jw.simulate(placement, digits.test, at={"eta": 0.4}, chips=3).values


def test_a_lost_worker_is_named():
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as executor,
        spread(executor, ()) as workers,
        pytest.raises(InputError, match="executor lost a worker"),
    ):
        list(workers.map(fall, [1]))


def test_data_that_cannot_be_sent_are_refused(pool, digits, placement):
    hooked = build("cnn", digits.input_shape, digits.classes, seed=0)
    hooked.register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(ModelError, match="cannot be sent to other processes"):
        jw.simulate(
            jw.place(hooked, weights=jw.SRAM()), digits.test, at={"eta": 0.4}, executor=pool
        )


@pytest.mark.parametrize("given", ["4", 4, torch.nn.ReLU()])
def test_anything_but_an_executor_is_refused(digits, placement, given):
    for function in (jw.simulate, jw.predict):
        with pytest.raises(InputError, match="executor is .*allowed: an Executor"):
            function(placement, digits.test, at={"eta": 0.4}, executor=given)


def test_methods_that_are_not_spread(pool, digits, placement):
    with pytest.raises(InputError, match="first-order and second-order alone"):
        jw.predict(placement, digits.test, at={"eta": 0.4}, method=Corrected(), executor=pool)
    eta = torch.tensor(0.4, requires_grad=True)
    with pytest.raises(InputError, match="gradients"):
        jw.predict(placement, digits.test, at={"eta": eta}, executor=pool)


def test_errors_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with spread(Immediate(), [1, 2]) as workers:
        assert list(workers.map(total, [10, 20])) == [13, 23]
        assert len(list(tmp_path.iterdir())) == 1
        with pytest.raises(TypeError):
            list(workers.map(total, ["text"]))
    assert not list(tmp_path.iterdir())


def test_warnings_are_given_once(digits):
    placement = jw.place(Deaf(64, 10), weights=jw.SRAM())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        given = {"at": {"eta": 0.4}, "batch_size": 100, "executor": Immediate()}
        jw.predict(placement, digits.test, **given)
    assert ["move no output" in str(one.message) for one in seen] == [True]
