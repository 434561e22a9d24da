"""What every wrapper asks of its tensors before it launches anything."""

import torch

from pytriton_llama.runtime import interpreted, runs_bfloat16

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(op: str, **tensors: torch.Tensor | None) -> None:
    """Raise where a kernel could not run, or would run and be wrong.

    All tensors (``None`` is skipped) must share one floating dtype and one device, and this process must be able to
    launch there. Kernels are forward only, so gradients must not be expected.

    Raises:
        TypeError: a dtype that no kernel takes, or that this device cannot do; dtypes that differ.
        ValueError: devices that differ or that this process has no kernels for; gradients required.
    """
    given = {name: t for name, t in tensors.items() if t is not None}
    first_name, first = next(iter(given.items()))
    for name, t in given.items():
        if t.dtype not in DTYPES:
            raise TypeError(f"{op}: {name} is {t.dtype}; needed: float32, float16 or bfloat16")
        if t.dtype != first.dtype:
            raise TypeError(f"{op}: {name} is {t.dtype} but {first_name} is {first.dtype}; they must agree")
        if t.device != first.device:
            raise ValueError(f"{op}: {name} is on {t.device} but {first_name} is on {first.device}")
        if t.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: {name} requires grad, but kernels are forward only: use torch.no_grad()")
    check_device(op, first_name, first)


def check_device(op: str, name: str, t: torch.Tensor) -> None:
    """Raise unless this process can launch a kernel on the tensor's device, in its dtype; errors as :func:`check`."""
    if interpreted():
        need(t.device.type == "cpu", f"{op}: {name} is on {t.device}, but kernels are interpreted on the CPU here")
    elif t.device.type != "cuda" or t.device.index != torch.cuda.current_device():
        raise ValueError(
            f"{op}: {name} is on {t.device}, but kernels are compiled for cuda:{torch.cuda.current_device()} in this "
            "process (TRITON_INTERPRET=1 interprets them on the CPU)"
        )
    if t.dtype == torch.bfloat16 and not runs_bfloat16(t.device):
        raise TypeError(f"{op}: no bfloat16 on {t.device} (it needs sm_80, or the fast interpreter): use float16")


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """A non-empty ``x`` as a matrix whose columns lie side by side; copied only where no view can do it."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def need(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless the condition holds."""
    if not condition:
        raise ValueError(message)
