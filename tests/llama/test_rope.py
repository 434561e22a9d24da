"""The angles of the rotary embedding: equal to those of transformers' own functions."""

import random

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import rope
from pytriton_llama.llama.config import LlamaConfig

CPU = torch.device("cpu")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": YARN,
    "yarn without a factor": YARN | {"factor": None},
    "yarn without its context": {"rope_type": "yarn", "factor": 2.0},
    "yarn of a factor below 1": YARN | {"factor": 0.5},
    "yarn from the first pair on": YARN | {"original_max_position_embeddings": 100},
    "yarn betas": YARN | {"beta_fast": 16, "beta_slow": 2},
    "yarn betas alike": YARN | {"beta_fast": 3.0, "beta_slow": 3.0, "truncate": False},
    "yarn attention_factor": YARN | {"attention_factor": 1.7},
    "yarn mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2},
    "yarn mscale alone": YARN | {"mscale": 0.707},
    "yarn untruncated": YARN | {"truncate": False},
    "yarn nulls": YARN | {"beta_fast": None, "attention_factor": None, "mscale": None},
}


def both(scaling: dict, **changes) -> tuple[LlamaConfig, transformers.LlamaConfig]:
    """The same config as ours and as transformers'."""
    values = {
        "vocab_size": 96, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 2048, "model_type": "llama",
    } | changes  # fmt: skip
    theta = {"rope_theta": values.pop("rope_theta", 10000.0)}
    return (
        LlamaConfig.from_dict(values | {"rope_parameters": scaling | theta}),
        transformers.LlamaConfig(**values, rope_parameters=scaling | theta),
    )


def theirs(config: transformers.LlamaConfig, length: int | None = None) -> tuple[torch.Tensor, float]:
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
        return embedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[kind](config, CPU, seq_len=None if length is None else torch.tensor(length))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_transformers(name, seed):
    """Catches a ramp that is off by a pair or the wrong way round, whole pairs where the ramp is not truncated, betas
    exchanged, and an attention factor left out or applied to one of cos and sin."""
    draw = random.Random(f"{name} {seed}")
    head_dim, theta = draw.choice([16, 48, 64, 128, 256]), draw.choice([1e4, 5e5, 37.5])
    ours, config = both(SCALINGS[name], head_dim=head_dim, rope_theta=theta)
    frequencies, factor = theirs(config)
    torch.testing.assert_close(rope.inverse_frequencies(ours), frequencies, rtol=2e-6, atol=0)
    cos, sin = rope.rope_table(ours, 300, CPU)
    angles = torch.outer(torch.arange(300, dtype=torch.float32), torch.cat((frequencies, frequencies)))
    torch.testing.assert_close(cos, angles.cos() * factor, rtol=0, atol=1e-4)
    torch.testing.assert_close(sin, angles.sin() * factor, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("head_dim", "theta", "factor"), [(64, 1e4, 2.0), (128, 5e5, 7.5), (16, 100.0, 1.0)])
def test_dynamic_rows_are_those_of_a_text_that_ends_there(head_dim, theta, factor):
    """Catches one base for all rows, a length that is off by one, and growth that begins within the context."""
    scaling = {"rope_type": "dynamic", "factor": factor}
    ours, config = both(scaling, head_dim=head_dim, rope_theta=theta, max_position_embeddings=100)
    assert ours.max_position_embeddings == int(100 * factor)
    rows = rope.inverse_frequencies(ours, 250)
    for row in (0, 98, 99, 100, 101, 180, 249):
        torch.testing.assert_close(rows[row], theirs(config, row + 1)[0], rtol=2e-6, atol=0)


def test_a_table_that_memory_does_not_hold(monkeypatch):
    """Catches a traceback of torch's allocator for a context of millions."""

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(LlamaError, match=r"max_position_embeddings \(64\) do not fit in memory"):
        rope.rope_table(both({})[0], 64, CPU)
