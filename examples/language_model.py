"""A language model to a plan: perplexity against joules per token.

    pip install transformers
    python examples/language_model.py
    python examples/language_model.py --model FOLDER --text FILE --length 256

Without options, a small model is trained for seconds on the text of this file, letter by letter.
FOLDER holds a causal model and its tokenizer, as ``transformers`` saves them.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import joulewise as jw
from joulewise.models import seeded

DROP = 0.02  # of perplexity, relative


def letters(text: str, steps: int = 150) -> tuple[nn.Module, Tensor]:
    """A model of ASCII letters, trained on a text, and the text as tokens."""
    ids = torch.tensor([min(ord(letter), 127) for letter in text])
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    with seeded(0):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=128, tie_word_embeddings=True, **sizes, **heads, **tokens)
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 64, (16,), generator=generator)
        batch = torch.stack([ids[start : start + 64] for start in starts])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), ids


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a causal model and its tokenizer")
    parser.add_argument("--text", type=Path, default=Path(__file__))
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sequence")
    options = parser.parse_args(arguments)
    start, text = time.perf_counter(), options.text.read_text()
    if options.model is None:
        model, ids = letters(text)
    else:
        model = AutoModelForCausalLM.from_pretrained(options.model)
        ids = AutoTokenizer.from_pretrained(options.model)(text, return_tensors="pt").input_ids[0]
    ids = ids[: options.sequences * options.length].reshape(-1, 1, options.length)
    data = [{"input_ids": one, "labels": one} for one in ids]

    centered = jw.transforms.center_head(model)  # the same function
    memory = jw.SRAM(bits=8, channel_dim=0)
    for name, made in {"as it is": model, "head without its mean row": centered}.items():
        example = {"input_ids": ids[0]}
        placement = jw.place(made, weights=memory, kv_cache=memory, example_inputs=example)
        forecast = jw.predict(placement, data, at={"eta": 0.7}, method="fisher")
        print(f"{name}: at eta 0.7 a predicted perplexity of {forecast.perplexity:.4g}")
        found = jw.allocate(
            placement,
            data,
            goal=jw.MetricDrop(DROP, relative=True),
            metric=jw.metrics.Perplexity(),
            chips=20,
        )
        context = options.length // 2
        reliable, planned = (
            jw.token_energy(placement, at=at, context=context).generated
            for at in (placement.most_reliable(), found.plan)
        )
        print(
            f"  {DROP:.0%} more perplexity {'holds' if found.holds else 'does not hold'}: "
            f"{planned.memory_total_j:.3g} J of memory a generated token, "
            f"{planned.memory_total_j / reliable.memory_total_j:.0%} of the most reliable plan"
        )
    with jw.loaded(placement, at=found.plan, chip=0) as faulty, torch.no_grad():
        for title, one in (("clean", model), ("faulty", faulty)):
            prompt, more = ids[0][:, :context], options.length - context - 1
            tokens = one.generate(prompt, max_new_tokens=more, do_sample=False, pad_token_id=0)
            print(f"{title}: {tokens[0, context:].tolist()[:12]}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
