"""Where a model runs, in which dtype, by which implementation of the operations."""

import warnings
from dataclasses import dataclass

import torch

from pytriton_llama.errors import LlamaError
from pytriton_llama.runtime import NO_GPU, interpreted, runs_bfloat16

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KERNELS = ("auto", "triton", "torch")


@dataclass(frozen=True)
class Placement:
    """``kernels`` is "triton" or "torch"."""

    device: torch.device
    dtype: torch.dtype
    kernels: str


def choose(device: str | None, dtype: str | torch.dtype | None, kernels: str) -> Placement:
    """Fill in what is None or "auto", and refuse what cannot run here with a :class:`LlamaError`."""
    if kernels not in KERNELS:
        raise LlamaError(f"kernels is {kernels!r}; known: {', '.join(KERNELS)}")
    home = "cpu" if interpreted() else "cuda"
    try:
        where = torch.device(device or ("cpu" if kernels == "torch" and not torch.cuda.is_available() else home))
    except RuntimeError as error:
        raise LlamaError(f"device is {device!r}; known: cuda, cpu") from error
    if where.type not in ("cpu", "cuda"):
        raise LlamaError(f"device is {device!r}; known: cuda, cpu")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise LlamaError("device is cuda, but torch sees no GPU here" if device else NO_GPU)
    if kernels == "auto" and where.type != home:
        kernels = "torch"
        warnings.warn(f"kernels run on {home} in this process, so the model on {where} uses torch's", stacklevel=3)
    kernels = "triton" if kernels == "auto" else kernels
    if kernels == "triton" and where.type != home:
        raise LlamaError(f"kernels=triton runs on {home} in this process, not on {where}: use kernels=torch")
    chosen = _dtype(dtype, where)
    if chosen == torch.bfloat16 and kernels == "triton" and not runs_bfloat16(where):
        raise LlamaError(f"no bfloat16 on {where} (it needs sm_80, or the fast interpreter): use float16")
    return Placement(where, chosen, kernels)


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if runs_bfloat16(device) else torch.float16
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise LlamaError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    return chosen
