"""Decides, once per process, whether Triton's kernels are compiled for a GPU or interpreted on the CPU.

Triton reads ``TRITON_INTERPRET`` while it is being imported, and never again, so the decision is made when
``pytriton_llama`` is imported, before ``triton`` is.
"""

import importlib.util
import os
import runpy
import sys
import warnings
from pathlib import Path


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
    """Set ``TRITON_INTERPRET=1`` where no GPU can run the kernels; what the user set stays."""
    if "TRITON_INTERPRET" in os.environ or _torch_sees_gpu():
        return
    os.environ["TRITON_INTERPRET"] = "1"
    # A GPU does not warn of log2(0) = −inf or of a NaN in a masked-off row; neither should its stand-in.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton.runtime.interpreter")
    if "triton" in sys.modules:
        warnings.warn(
            "triton was imported before pytriton_llama, so its interpreter is off and kernels cannot run on this "
            "machine without a GPU: import pytriton_llama first, or set TRITON_INTERPRET=1",
            stacklevel=3,
        )


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter in this process."""
    import triton

    return bool(triton.knobs.runtime.interpret)
