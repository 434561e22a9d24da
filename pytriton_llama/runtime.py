"""Decides, once per process, whether Triton's kernels are compiled for a GPU or interpreted on the CPU.

Triton reads ``TRITON_INTERPRET`` while it is being imported, and never again, so the decision is made when
``pytriton_llama`` is imported, before ``triton`` is.
"""

import functools
import importlib.abc
import importlib.util
import os
import runpy
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def _torch_sees_gpu() -> bool:
    """Whether the installed torch can use a GPU. A CPU-only build is recognised without the seconds of its import."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    build = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    if not (build.get("cuda") or build.get("hip")):
        return False
    import torch

    return torch.cuda.is_available()


def decide() -> None:
    """Set ``TRITON_INTERPRET=1`` where no GPU can run the kernels; what the user set stays.

    Where kernels are interpreted, by us: see :mod:`pytriton_llama.interpreter`.
    """
    if not os.environ.get("TRITON_INTERPRET") and not _torch_sees_gpu():
        if "triton" in sys.modules:
            warnings.warn(
                "triton was imported before pytriton_llama, so its interpreter is off and kernels cannot run on this "
                "machine without a GPU: import pytriton_llama first, or set TRITON_INTERPRET=1",
                stacklevel=3,
            )
            return
        os.environ["TRITON_INTERPRET"] = "1"
    if "triton" in sys.modules:
        _enable_fast_interpreter()
    else:
        sys.meta_path.insert(0, _AfterTriton())


class _AfterTriton(importlib.abc.MetaPathFinder):
    """Turns the fast interpreter on once triton has been imported, so that importing us does not import triton."""

    def find_spec(self, name, path, target=None):
        if name != "triton":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_enable(module):
                execute(module)
                _enable_fast_interpreter()

            spec.loader.exec_module = execute_then_enable  # type: ignore[method-assign]
        return spec


def _enable_fast_interpreter() -> None:
    from pytriton_llama import interpreter

    # A GPU does not warn of log2(0) = −inf or of a NaN in a masked-off row; the stock interpreter should not either.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton.runtime.interpreter")
    interpreter.enable()


NO_GPU = (
    "kernels are compiled for a GPU in this process, but torch sees none: unset TRITON_INTERPRET and import "
    "pytriton_llama before triton, and they are interpreted"
)


@functools.cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter in this process. Triton decides when it is imported, for good."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def runs_bfloat16(device: "torch.device") -> bool:
    """Whether kernels on the device compute in bfloat16: a GPU from sm_80 on; our interpreter, not Triton's own."""
    if device.type == "cuda":
        return capability(device) >= (8, 0)
    from pytriton_llama import interpreter

    # Triton's own multiplies bf16's bit patterns, and cuts stores off instead of rounding.
    return interpreter.enabled()


@functools.cache
def capability(device: "torch.device") -> tuple[int, int]:
    """The GPU's generation, (9, 0) for sm_90."""
    import torch

    return torch.cuda.get_device_capability(device)


@functools.cache
def has_tma(device: "torch.device") -> bool:
    """Whether kernels run on a GPU with a Tensor Memory Accelerator and the shared memory to feed it: sm_90, sm_100."""
    import torch

    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and not interpreted() and (9, 0) <= capability(device) < (12, 0)


@functools.cache
def has_gluon(device: "torch.device") -> bool:
    """Whether kernels in Gluon run: they use sm_90's own matrix instructions, and ``warp_specialize`` as it is since
    Triton 3.6."""
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return has_tma(device) and capability(device) == (9, 0) and version >= (3, 6)
