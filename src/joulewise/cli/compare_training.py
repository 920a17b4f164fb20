"""``joulewise compare-training``: ways to train, accuracy against energy, several seeds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing
from joulewise.cli.compare import ready

if TYPE_CHECKING:
    from joulewise.data import Dataset, Split
    from joulewise.study import Arm, ArmComparison, Contender, PlacementSpec, Recipe
    from joulewise.training import EpochRecord, TrainingSpec

__all__ = ["compare_training"]

_ARM = (
    "RECIPE, NAME=RECIPE, or NAME=FILES of weights such as 'sam-*.safetensors'; repeat it, what "
    "others are held to first. RECIPE: METHOD[:RHO], and of clip[:DEVIATIONS], memory:POINT (train "
    "through it) or perfect (through its words alone), ranges (learn them there) and long (twice "
    "the epochs) what is wanted, joined by +  [default: sgd, sgd+clip, sam, asam, samson2, "
    "samsoninf]"
)
_DEFAULT = ("sgd", "sgd+clip", "sam", "asam", "samson2", "samsoninf")
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


@placing.places(without=("fold_batchnorm", "accesses"))
def compare_training(
    model: options.Model,
    out: Annotated[
        Path, typer.Option(help="folder for the networks, report.html and comparison.json")
    ],
    arm: Annotated[list[str] | None, typer.Option(help=_ARM)] = None,
    data: options.Data = "digits",
    seeds: Annotated[int, typer.Option(min=1, help="networks of each recipe")] = 3,
    epochs: Annotated[int, typer.Option(help="passes over the training set")] = 30,
    batch_size: Annotated[int, typer.Option(help="samples in a step")] = 128,
    lr: Annotated[float, typer.Option(help="highest learning rate")] = 0.2,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 (autocast)")] = "float32",
    drop: options.Drops = None,
    eta: options.Eta = None,
    v_dd: options.VDD = None,
    g_max: options.GMax = None,
    seconds: options.Seconds = None,
    chips: options.Chips = 50,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Train by several recipes with several seeds: the lowest energy of each at one accuracy.

    All are held to the accuracy that the first reaches without a memory. Networks are kept as they
    are done, and not trained again where they are there already: after an interruption the same
    command goes on. Without --eta, --v-dd, --g-max or --seconds, operating points are chosen.

    Example: joulewise compare-training --model cnn --arm sgd --arm samson2:0.5 --arm
    sgd+clip+memory:0.4 --out cmp

    Example: joulewise compare-training --model cnn --device crossbar --sigma 2e-6 --arm sgd --arm
    sgd+clip+memory:2e-5 --out cmp
    """
    console.start(threads)
    from joulewise.data import load_data
    from joulewise.training import TrainingSpec

    common = TrainingSpec(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        precision=precision,  # type: ignore[arg-type]
    )
    spec = placing.placement_spec(placed)
    drops = options.accuracy_drops(drop)
    knobs = {"eta": eta, "v_dd": v_dd, "g_max": g_max, "seconds": seconds}
    knob, points = options.operating_points(**knobs) if any(knobs.values()) else (None, None)
    asked = [_Asked(text, common) for text in arm or _DEFAULT]
    _check_names(asked)
    folder = ready(out)
    assert folder is not None
    dataset = load_data(data)
    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    study = _Study(model, dataset, spec, knob, points, folder)
    study.check(asked, seed)
    files = study.networks(asked, common, range(seed, seed + seeds))
    arms = [study.arm(a, own) for a, own in zip(asked, files, strict=True)]
    comparison = _run(arms, study, test, drops, chips, seed)
    _present(comparison, folder, json)


class _Asked:
    """An arm as the command line has it: by a recipe, or by files of weights."""

    def __init__(self, text: str, common: TrainingSpec) -> None:
        from joulewise.errors import InputError
        from joulewise.study import Recipe

        name, equals, what = text.partition("=")
        self.name, what = (name, what) if equals else (text, text)
        self.recipe: Recipe | None = None
        self.files: tuple[Path, ...] = ()
        self.text = what
        if not what.endswith(_WEIGHTS):
            self.recipe = Recipe.parse(what)
            self.recipe.spec(common, 0)  # refuses numbers out of range
            return
        pattern = Path(what)
        below = Path(pattern.anchor)
        self.files = tuple(sorted(below.glob(str(pattern.relative_to(below)))))
        if not self.files:
            raise InputError(
                f"the arm {text!r} has no files; allowed: a pattern of some that exist"
            )


def _check_names(asked: Sequence[_Asked]) -> None:
    """Refuse two arms of one name before training any.

    Raises:
        InputError: naming them.
    """
    from joulewise.errors import InputError

    names = [arm.name for arm in asked]
    if len(set(names)) < len(names):
        raise InputError(f"the arms are {names}; allowed: names all different, as NAME=RECIPE")


class _Study:
    """What is the same for all arms."""

    def __init__(
        self,
        model: str,
        dataset: Dataset,
        spec: PlacementSpec,
        knob: str | None,
        points: list[float] | None,
        folder: Path,
    ) -> None:
        self.model, self.dataset, self.spec = model, dataset, spec
        self._knob, self._points, self._folder = knob, points, folder

    def check(self, asked: Sequence[_Asked], seed: int) -> None:
        """Refuse before training what would be refused after it, on a network that is untrained."""
        from joulewise.simulation import simulate

        untrained = self._placed(None, seed)
        placement, points = untrained.placement, untrained.points or ()
        for point in points:
            placement.points({untrained.setting: point})
        at = {untrained.setting: points[0]} if points else placement.most_reliable()
        simulate(placement, self.dataset.test.subset(1), at=at, chips=1)
        for arm in asked:
            if arm.recipe is None:
                self.arm(arm, arm.files)
            else:
                arm.recipe.memory(
                    placement.model, self.dataset, self.spec, seed=seed, knob=self._knob
                )

    def networks(
        self, asked: Sequence[_Asked], common: TrainingSpec, seeds: range
    ) -> list[tuple[Path, ...]]:
        """The files of each arm, trained where they are not there yet, with a progress bar."""
        from joulewise.study import train_networks

        found = []
        recipes = [arm for arm in asked if arm.recipe is not None]
        with console.bar("train") as update:
            for arm in asked:
                if arm.recipe is None:
                    found.append(arm.files)
                    continue
                done = recipes.index(arm)
                epochs = len(seeds) * arm.recipe.spec(common, 0).epochs
                found.append(
                    train_networks(
                        self.model,
                        self.dataset,
                        arm.recipe,
                        common,
                        seeds=seeds,
                        folder=self._folder,
                        placement=self.spec,
                        knob=self._knob,
                        progress=_reporter(update, arm.name, done, len(recipes), epochs),
                    )
                )
        return found

    def arm(self, asked: _Asked, files: Sequence[Path]) -> Arm:
        """The networks of an arm on their memory."""
        from joulewise.study import Arm

        networks = tuple(self._placed(file) for file in files)
        return Arm(name=asked.name, networks=networks, recipe=asked.text)

    def _placed(self, weights: Path | None, seed: int = 0) -> Contender:
        """A network on its memory."""
        from joulewise.study import NetworkSpec

        network = NetworkSpec(model=self.model, weights=weights, seed=seed)
        return network.place(self.dataset, self.spec, knob=self._knob, points=self._points)


def _reporter(
    update: console.Update, name: str, done: int, recipes: int, epochs: int
) -> Callable[[EpochRecord], None]:
    """Tells a bar of recipes how far one is that takes so many epochs in all."""
    seen = 0

    def report(epoch: EpochRecord) -> None:
        nonlocal seen
        seen += 1
        update(done + seen / epochs, recipes, f"{name}, loss {epoch.loss:.3f}")

    return report


def _run(
    arms: list[Arm],
    study: _Study,
    test: Split,
    drops: list[float],
    chips: int,
    seed: int,
) -> ArmComparison:
    from joulewise.study import compare_arms

    with console.bar("compare") as update:
        return compare_arms(
            arms,
            test,
            data_name=study.dataset.name,
            model_name=study.model,
            drops=drops,
            chips=chips,
            seed=seed,
            command=shlex.join(["joulewise", *sys.argv[1:]]),
            progress=console.one_after_another(update, [arm.name for arm in arms]),
        )


def _present(comparison: ArmComparison, folder: Path, json: bool) -> None:
    """Write the record and the report, and print the result."""
    from joulewise.files import write_atomically
    from joulewise.report import arm_rows, arms_knob, write_arms_report

    write_atomically(folder / "comparison.json", comparison.model_dump_json(indent=1))
    write_arms_report(comparison, folder / "report.html")
    if json:
        typer.echo(comparison.model_dump_json(indent=2))
        return
    first = comparison.first.name
    columns = ["trained by", "clean accuracy", f"below {first}", arms_knob(comparison).title]
    columns += [f"memory energy saved of reliable {first}", "memory energy"]
    columns += [f"saved against {first}"]
    rows = [
        [
            row.name,
            console.with_interval(row.clean, row.clean_interval),
            row.drop,
            console.with_interval(row.point, row.point_interval),
            console.with_interval(row.saved, row.saved_interval),
            row.memory_energy,
            row.against_first,
        ]
        for row in arm_rows(comparison)
    ]
    title = f"Lowest energy at one accuracy: {comparison.data}, {comparison.images} images, "
    title += f"{comparison.chips} chips, 95 % intervals over networks"
    console.print_table(title, columns, rows)
    typer.echo(f"The report, for a browser: {folder / 'report.html'}")
