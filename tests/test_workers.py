"""Parts of a computation on executors: the same figures, whatever the workers; how they fail."""

import functools
import threading
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
from joulewise.workers import shared_with
from parts import exit_process, threads, total


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


class Unused(torch.nn.Linear):
    """Its noise has no effect."""

    def forward(self, inputs):
        return inputs.flatten(1)[:, :10] + 0 * self.weight.sum()


class Writes(torch.nn.Linear):
    """Writes to its inputs where a batch is short, as a model may that masks what it pads."""

    def forward(self, inputs):
        if len(inputs) < 100:
            inputs.mul_(0.5)
        return super().forward(inputs.flatten(1))


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


def without_the_file(function):
    """The function in a worker that does not see the file of the data."""
    digest, path, *rest = function.args
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
        "far away": Immediate(without_the_file),
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


def test_allocations_and_fronts_are_the_same(digits):
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    placement = jw.place(model, weights=jw.SRAM(), example_inputs=digits.train.inputs[:8])
    given = {"samples": 64, "chips": 20}
    with ThreadPoolExecutor(2) as executor:
        for call in (
            functools.partial(jw.allocate, placement, digits.test, goal=jw.OutputError(1e-3)),
            functools.partial(jw.pareto, placement, digits.test, plans=2),
        ):
            assert call(executor=executor, **given).to_dict() == call(**given).to_dict()


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
            with shared_with(pool, ()) as workers:
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
        shared_with(executor, ()) as workers,
        pytest.raises(InputError, match="executor lost a worker"),
    ):
        list(workers.map(exit_process, [1]))


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
    with pytest.raises(InputError, match="method first-order or second-order"):
        jw.predict(placement, digits.test, at={"eta": 0.4}, method=Corrected(), executor=pool)
    eta = torch.tensor(0.4, requires_grad=True)
    with pytest.raises(InputError, match="gradients"):
        jw.predict(placement, digits.test, at={"eta": eta}, executor=pool)


def test_errors_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with shared_with(Immediate(), [1, 2]) as workers:
        assert list(workers.map(total, [10, 20])) == [13, 23]
        assert len(list(tmp_path.iterdir())) == 1
        with pytest.raises(TypeError):
            list(workers.map(total, ["text"]))
    assert not list(tmp_path.iterdir())


def test_warnings_are_given_once(digits):
    placement = jw.place(Unused(64, 10), weights=jw.SRAM())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        given = {"at": {"eta": 0.4}, "batch_size": 100, "executor": Immediate()}
        jw.predict(placement, digits.test, **given)
    assert ["move no output" in str(one.message) for one in seen] == [True]


def test_models_that_write_to_some_inputs(digits):
    placement = jw.place(Writes(64, 10), weights=jw.SRAM(bits=8))
    batches = [digits.test.inputs[:150], digits.test.inputs[150:200]]
    given = {"at": [{"eta": 0.5}, {"eta": 0.4}], "chips": 10}
    before = [batch.clone() for batch in batches]
    expected = figures(jw.sweep(placement, batches, **given))
    with ThreadPoolExecutor(1) as executor:
        assert figures(jw.sweep(placement, batches, executor=executor, **given)) == expected
    assert all(map(torch.equal, batches, before))


def test_threads_leave_the_users_module_as_it_is(digits, tmp_path):
    (tmp_path / "once.py").write_text(
        "import pathlib, torch\n"
        f"with open({str(tmp_path / 'runs')!r}, 'a') as file: file.write('x')\n"
        "class Net(torch.nn.Sequential): pass\n"
        "def net(): return Net(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    model = jw.load_model(f"{tmp_path}/once.py:net", digits.input_shape, digits.classes, seed=0)
    placement = jw.place(model, weights=jw.SRAM())
    with ThreadPoolExecutor(2) as executor:
        for _ in range(2):
            jw.simulate(placement, digits.test, at={"eta": 0.4}, chips=20, executor=executor)
    assert (tmp_path / "runs").read_text() == "x"


def test_files_that_the_model_does_not_need_may_be_gone(pool, digits, placement, tmp_path):
    file = tmp_path / "gone.py"
    file.write_text("import torch\ndef net(): return torch.nn.Linear(64, 10)\n")
    jw.load_model(f"{file}:net", digits.input_shape, digits.classes, seed=0)
    file.unlink()
    jw.simulate(placement, digits.test, at={"eta": 0.4}, chips=2, executor=pool)


def test_views_are_sent_without_the_rest_of_their_storage(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = torch.zeros(1 << 20)
    with shared_with(Immediate(), list(whole.split(1 << 14))):
        (file,) = tmp_path.iterdir()
        assert file.stat().st_size < 1.1 * whole.nbytes


def test_parts_that_are_not_needed_are_cancelled(digits, placement):
    class Enough(Exception):
        pass

    def report(step, done, expected):
        if done == 3:
            raise Enough

    futures = []

    class Watched(ThreadPoolExecutor):
        def submit(self, *args):
            futures.append(super().submit(*args))
            return futures[-1]

    with Watched(1) as executor, pytest.raises(Enough):
        given = {"at": {"eta": 0.4}, "chips": 400, "progress": report}
        jw.simulate(placement, digits.test, executor=executor, **given)
    assert len(futures) == 50
    assert sum(future.cancelled() for future in futures) > 40


def test_an_executor_that_is_shut_down_and_autocast_are_refused(digits, placement):
    executor = ThreadPoolExecutor(1)
    given = {"at": {"eta": 0.4}, "chips": 2, "executor": executor}
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(InputError, match="within torch.autocast"),
    ):
        jw.simulate(placement, digits.test, **given)
    executor.shutdown()
    with pytest.raises(InputError, match="executor takes no work"):
        jw.simulate(placement, digits.test, **given)


def test_a_full_disk_costs_nothing_but_time(digits, placement, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    given = {"at": {"eta": 0.4}, "chips": 10}
    found = jw.simulate(placement, digits.test, executor=Immediate(), **given)
    assert found.values == jw.simulate(placement, digits.test, **given).values


def test_workers_that_ask_work_side_by_side():
    """Each part waits for the other: in turn they would never end."""
    barrier = threading.Barrier(2, timeout=60)

    class FarAway(ThreadPoolExecutor):
        def submit(self, fn, /, *args):
            return super().submit(without_the_file(fn), *args)

    def meet(shared, part):
        barrier.wait()
        return part

    with FarAway(2) as executor, shared_with(executor, ()) as workers:
        assert list(workers.map(meet, range(4))) == [0, 1, 2, 3]
