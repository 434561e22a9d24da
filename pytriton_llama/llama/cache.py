"""The keys and values of every token so far, in memory that is reserved once."""

import torch

from pytriton_llama.llama.config import LlamaConfig


class KVCache:
    """Static cache of a batch of sequences, each with a length of its own.

    Attributes:
        keys, values: (layers, batch, kv_heads, max_length, head_dim). What lies beyond a sequence's length was never
            written.
        lengths: (batch,) int32, on the device, so that a kernel can read them.
    """

    def __init__(
        self, config: LlamaConfig, batch: int, max_length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, max_length, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]

    def write(self, layer: int, sequence: int, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keys and values (1, kv_heads, length, head_dim) of one sequence, from position ``start`` on."""
        self.keys[layer, sequence, :, start : start + k.shape[2]] = k[0]
        self.values[layer, sequence, :, start : start + v.shape[2]] = v[0]

    def of(self, layer: int, sequence: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1, kv_heads, length, head_dim) of a sequence's first positions."""
        return self.keys[layer, sequence, None, :, :length], self.values[layer, sequence, None, :, :length]
