"""Llama in plain torch, as gpt-fast has it: what ``torch.compile`` makes of a static cache is the peer to beat.

One sequence; weights are shared with a :class:`~pytriton_llama.llama.model.LlamaModel`, which it must agree with.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pytriton_llama.llama.model import LlamaModel


class TorchDecoder(nn.Module):
    """``forward(token_ids, positions)`` takes tokens at their positions into the cache: a prompt, or one token."""

    def __init__(self, model: LlamaModel, max_length: int) -> None:
        super().__init__()
        self.keys: torch.Tensor  # buffers, as the four after them
        self.values: torch.Tensor
        self.cos: torch.Tensor
        self.sin: torch.Tensor
        self.mask: torch.Tensor
        config = self.config = model.config
        assert model.layers[0].qkv_bias is None and model.layers[0].gate_bias is None, "biases are left out here"

        def fixed(t: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(t, requires_grad=False)

        self.embed_tokens, self.lm_head, self.norm = map(fixed, (model.embed_tokens, model.lm_head, model.norm))
        self.layers = nn.ModuleList(
            nn.ParameterDict({name: fixed(t) for name, t in vars(layer).items() if t is not None})
            for layer in model.layers
        )
        # Buffers have fixed addresses, which CUDA graphs need.
        shape = (config.num_hidden_layers, 1, config.num_key_value_heads, max_length, config.head_dim)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(shape, dtype=model.dtype, device=model.device))
        self.register_buffer("cos", model.cos[:max_length])
        self.register_buffer("sin", model.sin[:max_length])
        mask = torch.ones(max_length, max_length, dtype=torch.bool, device=model.device).tril()
        self.register_buffer("mask", mask)

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Logits (vocab_size,) of what follows the last of ``token_ids`` (length,) at ``positions`` (length,).

        ``dtype``: computed in it, weights cast one by one; default: the model's. float32 is an oracle for 16 bits.
        """
        config = self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        x = self.embed_tokens[token_ids].to(dtype)
        cos, sin, mask = self.cos[positions].to(x), self.sin[positions].to(x), self.mask[positions][None, None]
        layer: Any
        for i, layer in enumerate(self.layers):
            qkv = _linear(self._normed(x, layer.input_layernorm), layer.qkv_proj)
            qkv = qkv.view(1, -1, heads + 2 * kv_heads, config.head_dim).transpose(1, 2)
            q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
            self.keys[i, :, :, positions] = _turned(k, cos, sin).to(self.keys)
            self.values[i, :, :, positions] = v.to(self.values)
            keys, values = self.keys[i].to(x), self.values[i].to(x)
            o = F.scaled_dot_product_attention(_turned(q, cos, sin), keys, values, attn_mask=mask, enable_gqa=True)
            x = x + _linear(o.transpose(1, 2).flatten(2)[0], layer.o_proj)
            h = self._normed(x, layer.post_attention_layernorm)
            x = x + _linear(F.silu(_linear(h, layer.gate_proj)) * _linear(h, layer.up_proj), layer.down_proj)
        return _linear(self._normed(x[-1:], self.norm), self.lm_head)[0]

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return wide.to(x) * weight.to(x)

    def next_token(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The likeliest token, (1,)."""
        return self(token_ids, positions).argmax(-1, keepdim=True)


def error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative to the whole."""
    return ((logits.float() - exact).norm() / exact.norm()).item()


def _linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight.to(x))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin
