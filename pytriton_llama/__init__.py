"""Triton kernels from softmax to flash attention, and the Llama that runs on them.

Importing the package decides whether kernels are compiled or interpreted (see :mod:`pytriton_llama.runtime`); import
it before ``triton``.
"""

from pytriton_llama import runtime

runtime.decide()

__all__ = ["Llama"]
__version__ = "0.1.0"


def __getattr__(name: str):
    # Importing torch takes seconds: `pytriton-llama --help` and `import pytriton_llama` do without.
    if name == "Llama":
        from pytriton_llama.llama.generator import Llama

        return Llama
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
