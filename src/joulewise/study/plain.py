"""Base of the parts of a study file, which are plain data, and their settings in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Plain", "kind_alone", "settings_in_words"]


class Plain(BaseModel):
    """Base of the parts of a study file: frozen, finite, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: Any) -> Any:
        """Refuse unknown fields.

        Raises:
            ValueError: naming those allowed.
        """
        for name in value if isinstance(value, Mapping) else ():
            if name not in cls.model_fields:
                raise ValueError(f"{name} is not a field; allowed: {', '.join(cls.model_fields)}")
        return value


def settings_in_words(entry: BaseModel, *skip: str) -> str:
    """The settings that differ from their defaults, such as ``sigma 1e-06``, joined by commas."""
    parts = []
    for name, field in type(entry).model_fields.items():
        value = getattr(entry, name)
        if name in ("kind", "label", *skip) or value == field.get_default(
            call_default_factory=True
        ):
            continue
        if isinstance(value, BaseModel):
            inner = settings_in_words(value)
            parts.append(" ".join(part for part in (getattr(value, "kind", name), inner) if part))
        elif value is True:
            parts.append(name.replace("_", " "))
        else:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)


def kind_alone(value: Any) -> Any:
    """A union's short form: the kind alone, such as ``flip`` for ``{kind: flip}``."""
    return {"kind": value} if isinstance(value, str) else value
