"""Where kernels run in this process, and numbers for them to work on."""

import torch

from pytriton_llama.runtime import interpreted

device = torch.device("cpu" if interpreted() else "cuda")


class Draw:
    """Normal numbers, the same on every machine: drawn by a CPU generator, then moved to the device.

    One object hands out one sequence: two calls give different numbers, a second run of the notebook the same ones.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        """A tensor of that shape with mean 0 and standard deviation ``scale``."""
        return (scale * torch.randn(shape, generator=self.generator)).to(dtype).to(device)


draw = Draw()
