"""Every memory, method and kind of network gives on a GPU what it gives on a CPU."""

import pytest
import torch

import joulewise as jw
from joulewise.devices import RERAM, SECDED, Array
from joulewise.placement.process_state import Exact

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MEMORIES = {
    "mask": (jw.SRAM(bits=8), {"eta": 0.4}),
    "flip by channel": (jw.SRAM(bits=6, fault=jw.Flip(), channel_dim=0), {"eta": 0.5}),
    "stuck, weak rows": (
        jw.SRAM(bits=8, fault=jw.Stuck(), fault_map=jw.CorrelatedMap(row=0.3)),
        {"eta": 0.4},
    ),
    "secded": (jw.SRAM(fault=jw.Flip(), protection=SECDED()), {"eta": 0.5}),
    "measured": (
        jw.SRAM(
            fault_map=jw.MeasuredMap.from_thresholds(
                [[0.02, *[float("inf")] * 15]] * 8, "interleaved"
            ),
        ),
        {"bit_error_rate": 0.05},
    ),
    "dram": (jw.DRAM(), {"refresh_s": 60.0}),
    "real devices": (
        jw.Crossbar(sigma=1e-6, stuck_on=0.01, on_off=20.0, levels=7, slices=2),
        {"g_max": 2e-5},
    ),
    "wires": (jw.Crossbar(sigma=1e-6, wire_ohm=2.0, g_range=(1e-6, 1e-4)), {"g_max": 2e-5}),
    "ReRAM, offset": (
        jw.Crossbar(programming=RERAM["wan2022-1s"], mapping="offset"),
        {"g_max": 3e-5},
    ),
    "write-verify": (
        jw.WriteVerify(
            unverified=jw.Crossbar(sigma=2e-6), verified=jw.Crossbar(sigma=2e-7), g_max=2e-5
        ),
        {"verified_fraction": 0.3},
    ),
    "clipped pairs": (jw.Crossbar(sigma=1e-6, variability=0.05, levels=16), {"g_max": 2e-5}),
    "read noise by column": (jw.Crossbar(read_noise=5e-7, channel_dim=0), {"g_max": 2e-5}),
    "converters": (
        jw.Crossbar(sigma=1e-6, array=Array(rows=32, input_bits=6, output_bits=8)),
        {"g_max": 2e-5},
    ),
    # Less than what the short cut that GPUs take with float32 would add.
    "hardly any noise": (jw.Crossbar(sigma=1e-8), {"g_max": 1e-4}),
    "pcm": (jw.PCM(), {"seconds": 86400.0}),
}
# The same words and noise; what differs is the order of sums in float32.
CLOSE = 2e-3
# A sum between two steps of a converter may then be rounded to the other one.
ROUNDED = 1e-2


def close(case):
    return ROUNDED if case == "converters" else CLOSE


def on(device, name, memory, shape=(1, 8, 8)):
    x = torch.randn(24, *shape, generator=torch.Generator().manual_seed(0))
    model = jw.load_model(name, shape, 10, seed=0).eval().to(device)
    activations = memory if isinstance(memory, jw.SRAM) else None
    placement = jw.place(
        model, weights=memory, activations=activations, example_inputs=x.to(device)
    )
    return placement, [(x.to(device), (torch.arange(24) % 10).to(device))]


@pytest.mark.parametrize("case", MEMORIES)
def test_chips(case):
    memory, setting = MEMORIES[case]
    here, there = (
        jw.simulate(*on(device, "cnn", memory), at=setting, chips=3) for device in ("cpu", "cuda")
    )
    assert there.mse == pytest.approx(here.mse, rel=close(case))
    assert there.energy.total_j == pytest.approx(here.energy.total_j, rel=CLOSE)


@pytest.mark.parametrize("method", ["first-order", "second-order", "corrected"])
@pytest.mark.parametrize("case", MEMORIES)
def test_predictions(case, method):
    if method == "corrected" and case in {"stuck, weak rows", "pcm"}:
        pytest.skip("words that depend on each other are refused")
    memory, setting = MEMORIES[case]
    here, there = (
        jw.predict(*on(device, "cnn", memory), at=setting, method=method)
        for device in ("cpu", "cuda")
    )
    assert float(there.mse) == pytest.approx(float(here.mse), rel=close(case))
    assert there.accuracy.mean == pytest.approx(here.accuracy.mean, abs=close(case))
    assert there.fractions == pytest.approx(here.fractions, rel=5 * close(case), abs=close(case))


@pytest.mark.parametrize("case", ["mask", "clipped pairs"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8"])
def test_moments(case, name):
    memory, setting = MEMORIES[case]
    here, there = (
        jw.predict(*on(device, name, memory), at=setting, method="full-covariance")
        for device in ("cpu", "cuda")
    )
    assert float(there.mse) == pytest.approx(float(here.mse), rel=CLOSE)


@pytest.mark.parametrize("name", ["transformer", "mobilenetv2", "resnet20"])
@pytest.mark.parametrize("method", ["first-order", "second-order"])
def test_networks(name, method):
    memory, setting = MEMORIES["mask"]
    here, there = (
        jw.predict(*on(device, name, memory), at=setting, method=method)
        for device in ("cpu", "cuda")
    )
    assert float(there.mse) == pytest.approx(float(here.mse), rel=2 * CLOSE)


def test_training():
    digits = jw.load_data("digits")
    for precision in ("float32", "bfloat16"):
        model = jw.load_model("cnn", digits.input_shape, digits.classes, seed=0).cuda()
        spec = jw.TrainingSpec(epochs=8, lr=0.1, precision=precision)
        assert jw.train(model, digits, spec).test_accuracy > 0.9


@pytest.mark.parametrize("case", MEMORIES)
def test_gradients_through_a_memory(case):
    memory, setting = MEMORIES[case]
    found = []
    for device in ("cpu", "cuda"):
        placement, ((x, targets),) = on(device, "cnn", memory)
        with Exact(placement.model), jw.TrainingMemory(placement, at=setting):
            torch.nn.functional.cross_entropy(placement.model(x), targets).backward()
        grads = [p.grad for p in placement.model.parameters()]
        assert all(grad.device.type == device for grad in grads)
        found.append(torch.cat([grad.flatten().cpu() for grad in grads]))
    here, there = found
    assert (there - here).norm() < 5 * CLOSE * here.norm()


def test_training_through_a_memory():
    digits = jw.load_data("digits")
    for precision in ("float32", "bfloat16"):
        model = jw.load_model("cnn", digits.input_shape, digits.classes, seed=0).cuda()
        memory = jw.TrainingMemory(jw.place(model, weights=jw.SRAM(bits=8)), at={"eta": 0.4})
        spec = jw.TrainingSpec(epochs=8, lr=0.1, precision=precision, method="samson2", clip=3.0)
        assert jw.train(model, digits, spec, memory=memory).test_accuracy > 0.9


@pytest.mark.parametrize("case", [case for case in MEMORIES if MEMORIES[case][0].smooth])
def test_learning_points(case):
    memory, setting = MEMORIES[case]
    found = []
    for device in ("cpu", "cuda"):
        placement, ((x, targets),) = on(device, "cnn", memory)
        learned = jw.contrib.NoiseMaximisation(placement, price=0.1, start=setting)
        with Exact(placement.model), learned:
            torch.nn.functional.cross_entropy(placement.model(x), targets).backward()
        found.append(learned.state_dict()["levels"])
    # A move of at most 0.01 changes by a quarter of that times what its slopes differ by.
    assert found[0] == pytest.approx(found[1], abs=0.05 * close(case))


def test_the_error_is_differentiable():
    memory, _ = MEMORIES["mask"]
    eta = torch.tensor(0.4, requires_grad=True)
    jw.predict(*on("cuda", "cnn", memory), at={"eta": eta}, method="first-order").mse.backward()
    assert eta.grad is not None and float(eta.grad) < 0


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("case", ["mask", "clipped pairs"])
def test_error_models(case, per):
    memory, setting = MEMORIES[case]
    found = []
    for device in ("cpu", "cuda"):
        placement, batches = on(device, "cnn", memory)
        plan = placement.plan(setting)
        if per == "channel":
            point = next(iter(setting.values()))
            for placed in placement.placed:
                if placed.channels is not None:
                    rows = torch.full((placed.channels, 1), point, dtype=torch.float64)
                    plan = jw.Plan({**plan, placed.name: {placed.device.knob: rows}})
        errors = jw.error_model(placement, batches, at=plan)
        lower = jw.Plan(
            {
                name: {knob: 0.8 * torch.as_tensor(at).double() for knob, at in point.items()}
                for name, point in plan.items()
            }
        )
        found.append([float(errors.error(plan)), float(errors.error(lower))])
    assert found[1] == pytest.approx(found[0], rel=2 * CLOSE)


@pytest.mark.parametrize("case", ["mask", "clipped pairs"])
def test_allocations(case):
    memory, _ = MEMORIES[case]
    here, there = (
        jw.allocate(*on(device, "cnn", memory), goal=jw.OutputError(1e-3), chips=20)
        for device in ("cpu", "cuda")
    )
    assert there.holds == here.holds
    assert there.energy.normalised == pytest.approx(here.energy.normalised, rel=0.02)
