"""How much memory a KV cache takes, and how much there is."""

from pathlib import Path

import torch

from pytriton_llama.llama.config import LlamaConfig


def bytes_per_token(config: LlamaConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token of one sequence has in a cache."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Bytes that can be reserved on the device: what the system has left and what torch keeps for itself unused."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
