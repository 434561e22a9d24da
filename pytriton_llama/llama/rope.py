"""The angles of the rotary embedding, with the scalings that stretch a context."""

import math

import torch

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.config import LlamaConfig, RopeScaling


def rope_table(config: LlamaConfig, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each float32 (length, head_dim), the halves of a row alike, as the kernel takes them.

    Row p turns pair i by p · θᵢ, and yarn's attention factor multiplies both. Raises :class:`LlamaError` where memory
    does not hold them.
    """
    factor = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    positions = torch.arange(length, dtype=torch.float32)[:, None]
    try:
        angles = positions * inverse_frequencies(config, length)
        cos, sin = (torch.cat((half, half), dim=-1).mul_(factor).to(device) for half in (angles.cos(), angles.sin()))
    except (RuntimeError, MemoryError) as error:  # torch's own lack of memory is a RuntimeError
        raise LlamaError(f"config: the angles of max_position_embeddings ({length}) do not fit in memory") from error
    return cos, sin


def inverse_frequencies(config: LlamaConfig, length: int = 1) -> torch.Tensor:
    """θᵢ in radians a position, float32 (head_dim / 2,), or for "dynamic" (length, head_dim / 2): by position.

    θᵢ = rope_theta^(−2i / head_dim). "linear" divides all by the factor. "llama3" (Llama 3.1's release) and "yarn"
    (arXiv 2309.00071) leave pairs that turn often within the original context, divide those that hardly turn, and
    blend between. "dynamic" raises rope_theta with the length of the text beyond the original context.

    A row of "dynamic" is that of a text which ends there, as it is for every token that transformers generates; a
    prompt beyond the original context transformers turns by its whole length, and we token by token.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    scaling = config.rope_scaling
    theta: float | torch.Tensor = config.rope_theta
    if scaling and scaling.rope_type == "dynamic":
        theta = theta * _dynamic_growth(scaling, length, config.head_dim)
    frequencies = 1.0 / theta**exponents
    if scaling is None or scaling.rope_type == "dynamic":
        return frequencies
    if scaling.rope_type == "linear":
        return frequencies / scaling.factor
    keep = (_yarn_share if scaling.rope_type == "yarn" else _llama3_share)(config, scaling, frequencies)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def _dynamic_growth(scaling: RopeScaling, length: int, head_dim: int) -> torch.Tensor:
    """What rope_theta is multiplied by at each position, (length, 1): 1 within the original context."""
    original = scaling.original_max_position_embeddings
    assert original
    lengths = torch.arange(1, length + 1, dtype=torch.float32)[:, None].clamp(min=original)
    return (scaling.factor * lengths / original - (scaling.factor - 1)) ** (head_dim / (head_dim - 2))


def _llama3_share(config: LlamaConfig, scaling: RopeScaling, frequencies: torch.Tensor) -> torch.Tensor:
    """How much of each frequency is kept, 0 … 1: by how often it turns within the original context."""
    assert scaling.low_freq_factor and scaling.high_freq_factor and scaling.original_max_position_embeddings
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    return ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)


def _yarn_share(config: LlamaConfig, scaling: RopeScaling, frequencies: torch.Tensor) -> torch.Tensor:
    """As :func:`_llama3_share`, with a ramp that is straight in the pair's number."""
    assert scaling.original_max_position_embeddings
    head_dim, original = config.head_dim, scaling.original_max_position_embeddings

    def pair(turns: float) -> float:  # which turns so often
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    # The last pair is head_dim / 2 − 1; that the ramp may end beyond is the paper's own code.
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    return 1 - ((torch.arange(head_dim // 2) - first) / width).clamp(0, 1)
