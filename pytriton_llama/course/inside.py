"""What a model computes on its way through a text: what may follow each token, and where each looks.

By the oracle in plain torch, whatever kernels write the text: this is for looking at, and a thread may do it while
kernels run.
"""

import copy
from types import SimpleNamespace
from typing import Any

import torch

from pytriton_llama import Llama, reference


class Inside:
    """One text's way through the model.

    Attributes:
        token_ids: the text.
        logits: float32 (length, vocab_size): row i scores what follows token i.
    """

    def __init__(self, llama: Llama, token_ids: list[int]) -> None:
        self.token_ids = token_ids
        self._looks: list[tuple[torch.Tensor, torch.Tensor, dict[str, Any]]] = []  # q, k and mask of each layer

        def flash_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **mask: Any) -> torch.Tensor:
            self._looks.append((q, k, mask))
            return reference.flash_attention(q, k, v, **mask)

        model = copy.copy(llama.model)  # shares the weights
        model.ops = SimpleNamespace(**vars(reference) | {"flash_attention": flash_attention})
        self.logits = model.logits(torch.tensor(token_ids, device=model.device))

    def attention(self, layer: int, head: int) -> torch.Tensor:
        """float32 (length, length) on the CPU: row i is how token i shares its attention among tokens."""
        q, k, mask = self._looks[layer]
        # Values that are the unit vectors: what attention makes of them is its weights.
        one = torch.eye(q.shape[2], dtype=torch.float32, device=q.device).expand(*k.shape[:2], -1, -1)
        return reference.flash_attention(q.float(), k.float(), one, **mask)[0, head].cpu()
