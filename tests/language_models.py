"""Small language models of transformers, shared by tests."""

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

_SIZES = dict(
    vocab_size=53,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)


def llama(*, tied=False):
    """Two layers, four heads of queries over two of keys, 53 tokens; as seeded around the call."""
    return LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=tied)).eval()


def mistral(*, window):
    """The same sizes, with attention to a window of so many positions."""
    return MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=window)).eval()


def mixtral(experts="grouped_mm"):
    """The same sizes, each token in two of four experts; ``experts`` is their implementation."""
    config = MixtralConfig(**_SIZES, num_local_experts=4, num_experts_per_tok=2)
    model = MixtralForCausalLM(config).eval()
    model.set_experts_implementation(experts)
    return model


SOURCE = """
import torch
from language_models import llama
model = llama
ids = torch.randint(53, (6, 10), generator=torch.Generator().manual_seed(0))
data = lambda: [{"input_ids": some, "labels": some} for some in ids.split(3)]
class Letters:
    def encode(self, text): return [ord(letter) - 97 for letter in text]
    def decode(self, ids): return "".join(chr(97 + k) for k in ids)
letters = Letters
number = lambda: 5
def fails(): raise OSError("no such tokenizer")
"""
"""Users' code with a model, data and tokenizers."""


def language_study(folder):
    """A study of that code, over a cache too, with a prompt and a goal."""
    path = folder / "text.py"
    path.write_text(SOURCE)
    return {
        "data": f"{path}:data",
        "models": [{"source": f"{path}:model", "label": "llama"}],
        "memories": ["sram"],
        "place": {"kv_cache": True},
        "metric": "perplexity",
        "points": ["eta=1", "eta=0.4", "eta=0.2"],
        "drops": ["5%"],
        "goals": ["drop=5%"],
        "granularities": ["network"],
        "chips": 20,
        "samples": 6,
        "generation": {"prompt": "abc", "tokenizer": f"{path}:letters", "new_tokens": 4},
    }
