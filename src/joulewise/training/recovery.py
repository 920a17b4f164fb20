"""Recovery after deployment: what is left to fit once a network lies on a chip, fitted to it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from joulewise.data import Dataset, Split
from joulewise.devices import Chip, PlainPoint, Point, plain_point
from joulewise.errors import (
    DataError,
    InputError,
    ModelError,
    WeightsError,
    check_in_range,
    check_whole,
    refuse,
)
from joulewise.models import seeded
from joulewise.optim.buffers import written
from joulewise.placement import Batch, Placement, call, loaded, prepare, same_modes
from joulewise.training.baseline import right
from joulewise.training.batchnorm import reestimate_batchnorm, tracked
from joulewise.training.recipe import schedule_of
from joulewise.training.through import Plan, TrainingMemory

__all__ = ["Recovery", "fit_to_chip"]

Choice = Literal["scales", "last", "all"]
# Tried on some chips of networks on digits and on CIFAR-10, by factors of three.
_RATES: Mapping[Choice, float] = {"scales": 0.01, "last": 0.01, "all": 0.0003}
# Uses of the chip while it is fitted, far from those of a test: noise of reads is others'.
_FIRST_USE = 2**32


class Recovery(BaseModel):
    """What fitting a network to one chip was, and what came of it.

    Args:
        chip: The seed of the chip.
        plan: The operating point of each placed tensor.
        parameters: Which were to be fitted.
        fitted: Their names.
        words: How many numbers they hold.
        epochs: Passes over the training split.
        batch_size: Samples in a step.
        lr: The highest learning rate.
        seed: Of the order of the samples.
        images: Samples that it was fitted to.
        before: Accuracy on this chip before, on the test split, in [0, 1].
        after: The same afterwards.
        steps: Of the optimizer.
        seconds: Of fitting, without the two tests.
    """

    model_config = ConfigDict(frozen=True)

    chip: int
    plan: dict[str, PlainPoint]
    parameters: Choice
    fitted: tuple[str, ...]
    words: int
    epochs: int
    batch_size: int
    lr: float
    seed: int
    images: int
    before: float
    after: float
    steps: int
    seconds: float


def fit_to_chip(
    placement: Placement,
    data: Dataset,
    *,
    chip: Chip,
    parameters: Choice = "scales",
    epochs: int = 3,
    batch_size: int = 64,
    lr: float | None = None,
    seed: int = 0,
    plan: Plan | None = None,
    **setting: Point,
) -> Recovery:
    """Fit a classifier to one chip, in place, after it was put there.

    What may still change differs by chip and by price:

    - ``"scales"``: all that is not placed, and so lies in reliable memory beside the arrays: scales
      and biases of normalisation, and biases. What is stored on the chip stays.
    - ``"last"``: the parameters of the last layer with a placed weight, in the order of the model.
      It is written anew to the same cells, which fail as before.
    - ``"all"``: every parameter. That is training for each chip.

    First the statistics of BatchNorm become those of this chip (`reestimate_batchnorm`). Then Adam
    minimises cross entropy through a `TrainingMemory` of the chip, with half a cosine for the
    learning rate, and the model in evaluation mode: what is fitted is the network as it will run,
    dropout off and those statistics held. Scales and biases could make up for other statistics, the
    last layer could not.

    Images are not augmented, and a part of the training split may do (`Split.subset`). Changed are
    the fitted parameters and statistics of BatchNorm, nothing else: other parameters keep every
    bit, all keep their ``requires_grad``, which has no say here, and their gradients, and modules
    their modes. After an exception and Ctrl-C everything is as it was.

    Args:
        placement: What is stored where.
        data: A data set with a training split, to fit to; accuracy is that of its test split.
        chip: The one chip. Noise of reads differs between steps, and is not that of the test.
        parameters: Which to fit, whether they ask for gradients or not.
        epochs: Passes over the training split, 1 or more.
        batch_size: Samples in a step, 1 or more.
        lr: Highest learning rate, above 0; None for 0.01, and for 0.0003 where all is fitted.
        seed: Of the order of the samples, 0 or more.
        plan: An operating point for each placed tensor; or give one ``setting`` for all.
        **setting: One operating point for every placed tensor, such as ``eta=0.3``.

    Returns:
        The record. Its two accuracies are those of `simulate` with ``chips=1`` and the chip's seed.

    Raises:
        DataError: if the data set has no training split.
        InputError: if both or neither of ``plan`` and a setting are given, a number is out of
            range, or the loss or a weight becomes NaN or infinite.
        ModelError: if there is nothing of that kind to fit.
        WeightsError: if a parameter is NaN or infinite before.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> from joulewise.training import TrainingSpec, train
        >>> digits = load_digits()
        >>> model = build("cnn", digits.input_shape, digits.classes, seed=0)
        >>> _ = train(model, digits, TrainingSpec(epochs=2, lr=0.1, augment=False))
        >>> placement = place(model, weights=SRAM(bits=8))
        >>> record = fit_to_chip(placement, digits, chip=Chip(seed=5), eta=0.15, epochs=1)
        >>> record.after > record.before + 0.1, record.steps
        (True, 19)

    References:
        Batch normalisation fitted to the noise of a crossbar: A. Bhattacharjee et al., GLSVLSI
        2023, arXiv 2305.18416. The last layer trained again on the chip: P. Yao et al., Nature 577,
        641, 2020. Layers fitted with the chip in the loop: W. Wan et al., Nature 608, 504, 2022,
        which programs layer after layer; ``"all"`` here writes all in each step. These are common
        practice. Ours: the statistics first and then held, the recipe, faults in words.
    """
    if data.train is None:
        raise DataError(f"{data.name} has no training split; allowed: data with one, to fit to")
    whole = (
        ("epochs", epochs, 1, 1e9),
        ("batch_size", batch_size, 1, 1e9),
        ("seed", seed, 0, 2**63),
    )
    for name, number, low, high in whole:
        check_in_range(name, number, low, high)
        check_whole(name, number)
    epochs, batch_size, seed = int(epochs), int(batch_size), int(seed)  # 2.0 is whole
    if lr is not None:
        check_in_range("lr", lr, 0.0, 100.0, open_low=True)
    model, split = placement.model, data.train
    if (plan is None) == (not setting):
        raise InputError("fit_to_chip needs a plan or one setting such as eta=0.3, and not both")
    points = placement.plan(**setting) if plan is None else placement.check_plan(plan)
    memory = TrainingMemory(placement, plan=points, chip=chip)
    memory.load_state_dict({"seed": chip.seed, "steps": _FIRST_USE})
    fitted = _chosen(placement, parameters)
    _check_finite(model, fitted)
    lr = _RATES[parameters] if lr is None else lr
    test = prepare(data.test, model)
    before = _accuracy(placement, points, chip, test, data.classes)
    began = time.perf_counter()
    with _only(model, fitted.values()):
        if tracked(model):
            reestimate_batchnorm(memory, split)
        steps = _fit(
            memory, fitted.values(), split, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
        )
        seconds = time.perf_counter() - began
        after = _accuracy(placement, points, chip, test, data.classes)
    return Recovery(
        chip=chip.seed,
        plan={name: plain_point(point) for name, point in points.items()},
        parameters=parameters,
        fitted=tuple(fitted),
        words=sum(parameter.numel() for parameter in fitted.values()),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        images=len(data.train),
        before=before,
        after=after,
        steps=steps,
        seconds=seconds,
    )


def _chosen(placement: Placement, parameters: Choice) -> dict[str, nn.Parameter]:
    """The parameters to fit, by name.

    Raises:
        ModelError: if there are none.
    """
    kinds = get_args(Choice)
    if parameters not in kinds:
        refuse("parameters", repr(parameters), " or ".join(map(repr, kinds)))
    modules = dict(placement.model.named_modules())
    weights = [placed for placed in placement.placed if placed.role == "weight"]
    if parameters == "last" and not weights:
        refuse("parameters", "'last', and no weight is placed", "'scales' or 'all'", ModelError)
    named = {n: p for n, p in placement.model.named_parameters() if p.is_floating_point()}
    wanted = {id(parameter) for parameter in named.values()}
    if parameters == "scales":
        wanted -= {id(own) for placed in weights for own in placed.parameters(modules)}
    if parameters == "last":
        owners = {_layer(path) for placed in weights for path, _ in placed.owners}
        last = [layer for layer in map(_layer, modules) if layer in owners][-1]
        wanted &= {
            id(own)
            for path, module in modules.items()
            if _layer(path) == last
            for own in module._parameters.values()
        }
    found = {name: parameter for name, parameter in named.items() if id(parameter) in wanted}
    if not found:
        got = "'scales', and the model has neither scales nor biases outside of its memory"
        refuse("parameters", got, "'last' or 'all'", ModelError)
    return found


def _check_finite(model: nn.Module, fitted: Collection[str]) -> None:
    """Refuse, by its name, what no learning rate would help; elsewhere infinity may be meant.

    Raises:
        WeightsError: if a parameter is NaN, or one to be fitted infinite.
    """
    for name, parameter in model.named_parameters():
        wrong = ~parameter.isfinite() if name in fitted else parameter.isnan()
        if wrong.any():
            got = f"NaN or infinite in {int(wrong.sum())} of {wrong.numel()}"
            refuse(name, got, "finite entries only", WeightsError)


def _layer(path: str) -> str:
    """The layer that a module belongs to: recipes of parametrised weights lie in children."""
    return f".{path}".split(".parametrizations.")[0][1:]


@contextmanager
def _only(model: nn.Module, fitted: Collection[Tensor]) -> Iterator[None]:
    """Only these ask for gradients; after an exception they and the buffers are as they were."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters() if p.is_floating_point()]
    changing = chain(fitted, written(model.buffers()))
    copies = [(t.detach(), t.detach().clone()) for t in changing]
    try:
        for own, _, _ in before:
            own.requires_grad_(False)
            own.grad = None
        for parameter in fitted:
            parameter.requires_grad_(True)
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, copy in copies:
                tensor.copy_(copy)
        raise
    finally:
        for own, learning, gradient in before:
            own.requires_grad_(learning)
            own.grad = gradient


def _fit(
    memory: TrainingMemory,
    fitted: Collection[Tensor],
    split: Split,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> int:
    """Minimise cross entropy on the chip; the number of steps.

    Raises:
        InputError: if the loss or a weight becomes NaN or infinite.
    """
    model = memory.placement.model
    steps = epochs * math.ceil(len(split) / batch_size)
    optimizer = torch.optim.Adam(fitted, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule_of(steps, warmup=0.0))
    generator = torch.Generator().manual_seed(seed)
    losses = []
    # Modules of one's own may draw from the global generator, in evaluation mode too.
    with same_modes(model), seeded(seed), torch.enable_grad(), _differentiable(model):
        model.eval()
        for _ in range(epochs):
            order = torch.randperm(len(split), generator=generator)
            for chosen in torch.split(order, batch_size):
                part = replace(split, inputs=split.inputs[chosen], targets=split.targets[chosen])
                (batch,) = prepare(part, model, batch_size)
                optimizer.zero_grad()
                try:
                    losses.append(_slopes(memory, batch))
                except WeightsError as error:  # the memory meets what became of a loss that is NaN
                    raise InputError(f"{error}, at lr {lr:g}; try a lower lr") from error
                optimizer.step()
                schedule.step()
    # No loss tells what the last step made of the weights.
    if not all(bool(found.isfinite().all()) for found in (torch.stack(losses), *fitted)):
        raise InputError(
            f"the loss or a weight became NaN or infinite at lr {lr:g}; try a lower lr"
        )
    return steps


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """No cuDNN where there are recurrent layers, which it differentiates in training mode alone."""
    before = torch._C._get_cudnn_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        torch._C._set_cudnn_enabled(before and not recurrent)
        yield
    finally:
        torch._C._set_cudnn_enabled(before)


def _slopes(memory: TrainingMemory, batch: Batch) -> Tensor:
    """Gradients on the chip onto the parameters; the loss."""
    assert batch.targets is not None
    with memory:
        outputs = call(memory.placement.model, batch.inputs)
        loss = functional.cross_entropy(outputs.float(), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _accuracy(
    placement: Placement, points: Plan, chip: Chip, batches: Sequence[Batch], classes: int
) -> float:
    """On one chip.

    Raises:
        ModelError: if the model does not give one number for each class.
    """
    correct, samples = 0, 0
    with loaded(placement) as memory:
        memory.read(points, chip)
        for batch in batches:
            outputs, targets = memory.call(batch.inputs), batch.targets
            assert targets is not None
            if outputs.shape != (len(targets), classes):
                allowed = f"{(len(targets), classes)}, [batch, classes]"
                refuse("the shape of the outputs", tuple(outputs.shape), allowed, ModelError)
            correct += right(outputs, targets)
            samples += len(targets)
    return correct / samples
