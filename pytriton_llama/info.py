"""What ``pytriton-llama info`` prints."""

import platform

import numpy
import torch
import triton

import pytriton_llama
from pytriton_llama import interpreter
from pytriton_llama.llama.device import DTYPES
from pytriton_llama.runtime import NO_GPU, interpreted, runs_bfloat16
from pytriton_llama.toolchain import missing_for_triton


def lines() -> list[str]:
    """GPU, free memory, versions, where kernels run, which dtypes run there."""
    found = [f"{package.__name__} {package.__version__}" for package in (pytriton_llama, torch, triton, numpy)]
    out = [f"versions    Python {platform.python_version()}, {', '.join(found)}"]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            major, minor = torch.cuda.get_device_capability(i)
            name = torch.cuda.get_device_name(i)
            out.append(f"GPU {i}       {name}, sm_{major}{minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    else:
        out.append("GPU         none that torch can use")
    device = torch.device("cpu" if interpreted() else "cuda")
    if device.type == "cuda":
        out.append(f"kernels     {'compiled for the GPU' if torch.cuda.is_available() else NO_GPU}")
        if missing := missing_for_triton():
            out.append(f"missing     {missing}")
    else:
        which = "fast" if interpreter.enabled() else "stock"
        out.append(f"kernels     interpreted on the CPU (the {which} interpreter)")
    if interpreted() or torch.cuda.is_available():
        bfloat16 = runs_bfloat16(device)
        out.append("dtypes      " + ", ".join(name for name in DTYPES if bfloat16 or name != "bfloat16"))
    return out
