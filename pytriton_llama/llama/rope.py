"""The angles of the rotary embedding, with the scalings that stretch a context."""

import math

import torch

from pytriton_llama.llama.config import LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> torch.Tensor:
    """θᵢ in radians a position, float32 (head_dim / 2,): pair i turns by position · θᵢ.

    θᵢ = rope_theta^(−2i / head_dim). "linear" divides all by the factor. "llama3" leaves pairs that turn often
    within the original context, divides those that hardly turn, and blends between (Llama 3.1's release).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    theta = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return theta
    if scaling.rope_type == "linear":
        return theta / scaling.factor
    assert scaling.low_freq_factor and scaling.high_freq_factor and scaling.original_max_position_embeddings
    turns = scaling.original_max_position_embeddings * theta / (2 * math.pi)  # within the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return keep * theta + (1 - keep) * theta / scaling.factor


def rope_table(config: LlamaConfig, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each float32 (length, head_dim), the halves of a row alike, as the kernel takes them."""
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse_frequencies(config))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(device), angles.sin().to(device)
