"""Training options as plain data; torch is not imported, so that bad input is refused at once."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Method", "TrainingOptions", "TrainingSpec"]

Method = Literal["sgd", "sam", "asam", "samson2", "samsoninf"]
"""SGD, or SAM, ASAM, or SAMSON with p = 2 or infinity, around SGD."""


class TrainingOptions(BaseModel):
    """Options of training, without a seed. The defaults are for networks on CIFAR."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=30, ge=1, le=10_000)
    batch_size: int = Field(default=128, ge=1, le=65_536)
    lr: float = Field(default=0.2, gt=0, le=100, description="highest learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1, description="on weights, not on biases")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="fraction of the steps")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    method: Method = "sgd"
    rho: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="radius of the ascent; None: the method's default",
    )
    range_decay: float = Field(
        default=0.01, ge=0, le=1, description="weight decay of trainable weight ranges"
    )
    clip: float | None = Field(
        default=None, gt=0, le=1e6, description="weight limit, in standard deviations of a tensor"
    )

    @model_validator(mode="after")
    def _check_rho(self) -> Self:
        """Refuse a rho that would have no effect.

        Raises:
            ValueError: if rho is given with ``sgd``.
        """
        if self.rho is not None and self.method == "sgd":
            raise ValueError(f"rho is {self.rho:g}; allowed: None with the method sgd")
        return self


class TrainingSpec(TrainingOptions):
    """Options of a training run."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
