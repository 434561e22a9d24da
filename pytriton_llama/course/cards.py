"""What GPUs can do at most, by their makers' data sheets (dense products, no sparsity)."""

from dataclasses import dataclass

import torch

from pytriton_llama.course.inputs import device


@dataclass(frozen=True)
class Card:
    """Ceilings of one GPU: ``bandwidth`` in bytes/s, ``fp16`` (tensor cores) and ``fp32`` (none) in FLOP/s."""

    name: str
    bandwidth: float
    fp16: float
    fp32: float

    def floor(self, moved: int, flops: int, peak: float | None = None) -> float:
        """Seconds that no kernel can stay below: all bytes at full bandwidth, or all FLOPs at ``peak`` (fp32's)."""
        return max(moved / self.bandwidth, flops / (peak or self.fp32))


T4 = Card("T4", 320e9, 65e12, 8.1e12)
L4 = Card("L4", 300e9, 121e12, 30.3e12)
RTX_4090 = Card("4090", 1008e9, 165e12, 82.6e12)
A100 = Card("A100", 2039e9, 312e12, 19.5e12)  # SXM, 80 GB
H100 = Card("H100", 3350e9, 989e12, 67e12)  # SXM
H200 = Card("H200", 4800e9, 989e12, 67e12)
CARDS = (T4, L4, RTX_4090, A100, H100, H200)


def this_card() -> Card:
    """The sheet of the GPU in use; where there is none, or no sheet, the H100's: recorded figures come from one."""
    words = torch.cuda.get_device_name().replace("-", " ").split() if device.type == "cuda" else []
    return next((card for card in CARDS if card.name in words), H100)
