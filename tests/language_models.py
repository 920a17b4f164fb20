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
