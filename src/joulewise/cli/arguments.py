"""Options that several commands share. Nothing here imports torch: errors and help are quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

# Names of `joulewise.models.ZOO`, which cannot be imported without torch.
ZOO_NAMES = ("mlp", "cnn", "vgg", "resnet8", "resnet20", "mobilenetv2", "transformer")

_MODELS = f"{', '.join(ZOO_NAMES)}, package.module:function, or file.py:function"
_MEMORY = (
    "sram, crossbar or pcm, with settings: sram:bits=6,fault=flip; "
    "custom:factory=file.py:function; or a YAML file"
)

Model = Annotated[
    str, typer.Option("--model", help=f"MODEL=WEIGHTS or MODEL: {_MODELS}", show_default=False)
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model", help=f"MODEL=WEIGHTS or MODEL; repeat it. {_MODELS}", show_default=False
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, a folder with CIFAR-10 or MNIST, torchvision:NAME:FOLDER, "
        "huggingface:NAME, package.module:function, or file.py:function",
    ),
]
Images = Annotated[
    int | None, typer.Option("--images", help="test samples, a random subset  \\[default: all]")
]
Memory = Annotated[str, typer.Option("--memory", help=_MEMORY)]
PlansMemory = Annotated[
    str | None, typer.Option("--memory", help=f"{_MEMORY}  \\[default: sram, or that of the plan]")
]
Memories = Annotated[
    list[str] | None, typer.Option("--memory", help=f"{_MEMORY}; repeat it  \\[default: sram]")
]
Place = Annotated[
    str | None,
    typer.Option(
        "--place",
        help="store=weights, activations or both; include=PATTERN+PATTERN; exclude=PATTERN; "
        "fold_batchnorm=true; kv_cache=true; common_range=true; accesses=FILE.csv; joined by "
        "commas",
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option("--at", help="operating point, eta=0.5 or g_max=2e-5; repeat it"),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="plan.json or its folder, with its memory, instead of --at"),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="accuracy, accuracy:5, tokens, nll, perplexity, kl or mse  "
        "\\[default: by the targets]",
    ),
]
Goal = Annotated[
    str,
    typer.Option(
        "--goal",
        help="drop=0.5pp, drop=2%, target=90%, error=1e-3 or energy=0.4; with chips=95% for a "
        "yield",
    ),
]
Drops = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        help="drop of the metric, as 0.5pp, or 2% of a perplexity; repeat it  "
        "\\[default: 0.5pp, 1pp]",
    ),
]
Chips = Annotated[int, typer.Option("--chips", help="chips to simulate")]
Samples = Annotated[int, typer.Option("--samples", help="samples to predict with")]
Seed = Annotated[int, typer.Option("--seed", help="seed of chips, of training and of probes")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="folder of the study; a second run resumes it  \\[default: not kept]"
    ),
]
Workers = Annotated[int, typer.Option("--workers", help="worker processes; 0: one per processor")]
WorkerProcesses = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="worker processes, one thread each; 0: one per processor  \\[default: this process]",
    ),
]
TorchDevice = Annotated[
    str | None,
    typer.Option("--torch-device", help="cpu or cuda  \\[default: cuda if there is one]"),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON and nothing else")]


def study_file(**fields: Any) -> Any:
    """A study of options, checked without torch; those that are None have their default.

    Raises:
        InputError: naming the field.
    """
    from pydantic import ValidationError

    from joulewise.errors import InputError
    from joulewise.study.messages import sentence
    from joulewise.study.study_file import StudyFile

    try:
        return StudyFile.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        raise InputError(sentence(error)) from error


def check_trained(models: list[str]) -> None:
    """Refuse unknown networks, and those of joulewise's own without weights.

    Raises:
        InputError: naming the network, and a command that trains it.
    """
    from joulewise.errors import InputError, refuse

    for text in models:
        name, _, weights = text.partition("=")
        if name not in ZOO_NAMES and ":" not in name:
            refuse("model", repr(text), _MODELS)
        if not weights and name in ZOO_NAMES:
            raise InputError(
                f"model is {text!r}, an untrained network; allowed: {name}=WEIGHTS, made for "
                f"instance by: joulewise train --model {name} --out {name}.safetensors"
            )
