"""Joules per token and generated text of a causal language model, as plain data."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from joulewise.errors import JoulewiseError, ModelError, refuse
from joulewise.placement import Placement, Plan, loaded, private_memory, token_energy
from joulewise.study.entries import GenerationEntry
from joulewise.study.factories import made_by
from joulewise.user_code import cause_of

__all__ = ["token_result"]


def token_result(
    placement: Placement,
    plan: Plan | None,
    *,
    context: int | None,
    generation: GenerationEntry | None,
    chip: int,
) -> dict[str, Any]:
    """Joules per token at a plan, and the text of one chip.

    Args:
        placement: The placement.
        plan: The plan; None for the most reliable one, and a perfect memory for the text.
        context: Tokens of the prompt that energy is counted for; None for no energy.
        generation: The prompt to continue; None for no text.
        chip: Seed of the chip.

    Returns:
        ``energy``, the ``to_dict`` of a `joulewise.TokenEnergy`, or None without a context and for
        models that take no cache; and ``text``, or None.

    Raises:
        InputError: if the tokenizer fails.
        ModelError: if the model generates no tokens.
    """
    at = placement.most_reliable() if plan is None else plan
    found: dict[str, Any] = {"energy": None, "text": None}
    if context is not None:
        with suppress(ModelError):  # not causal, or not of transformers
            found["energy"] = token_energy(placement, at=at, context=context).to_dict()
    if generation is None:
        return found
    if plan is None:
        with private_memory(placement) as memory:
            memory.ideal()
            found["text"] = _continued(memory.placement.model, generation)
    else:
        with loaded(placement, at=plan, chip=chip) as faulty:
            found["text"] = _continued(faulty, generation)
    return found


def _continued(model: nn.Module, entry: GenerationEntry) -> str:
    """The text that a model appends to the prompt, by the likeliest token at each step.

    Raises:
        ModelError: if it cannot.
    """
    generate: Any = getattr(model, "generate", None)
    if generate is None:
        got = f"given for a {type(model).__name__}, which generates no tokens"
        refuse("generation", got, "a causal model of transformers, or no generation", ModelError)
    tokenizer: Any = _tokenizer(entry.tokenizer) if entry.tokenizer else None
    try:
        text = isinstance(entry.prompt, str)
        prompt = tokenizer.encode(entry.prompt) if text else entry.prompt
        device = next(iter(model.parameters())).device
        ids = torch.tensor([prompt], device=device)
        with torch.no_grad():
            tokens = generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=entry.new_tokens,
                do_sample=False,
            )
        new = tokens[0, ids.shape[1] :].tolist()
        return " ".join(map(str, new)) if tokenizer is None else str(tokenizer.decode(new))
    except JoulewiseError as error:
        raise ModelError(f"generation: {error}") from error
    except Exception as error:  # the user's model and tokenizer: anything may happen
        raise ModelError(
            f"generation fails with {cause_of(error)}; allowed: a prompt of tokens that the model "
            "knows, and as many positions as it has"
        ) from error


def _tokenizer(source: str) -> Any:
    """A tokenizer from the user's code.

    Raises:
        InputError: if it cannot be made, or has no ``encode`` and ``decode``.
    """
    field, allowed = "generation.tokenizer", "a function without arguments that returns a tokenizer"
    made = made_by(source, field=field, allowed=allowed)
    if not all(callable(getattr(made, method, None)) for method in ("encode", "decode")):
        got = f"{source!r}, which returns a {type(made).__name__}"
        refuse(field, got, "an object with encode and decode")
    return made
