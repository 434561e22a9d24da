"""Llama, written out in the package's own operations.

A layer is rms_norm → q, k, v → rotary_embedding → attention → linear + residual → rms_norm → swiglu → linear +
residual. Which attention depends on the phase: a prompt's tokens go through flash_attention together, and each new
token of a batch through flash_decoding over the cache.

``ops`` is :mod:`pytriton_llama.kernels` or its oracle :mod:`pytriton_llama.reference`, which has the same functions.
Only two moves of data are left to torch: looking up embeddings, and writing into the cache.
"""

from collections.abc import Callable
from types import ModuleType

import torch

from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.rope import rope_table

Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Layer:
    """One decoder layer's weights, taken out of a checkpoint's tensors; projections are (out, in)."""

    def __init__(self, weights: dict[str, torch.Tensor], index: int) -> None:
        def take(name: str) -> torch.Tensor | None:
            return weights.pop(f"model.layers.{index}.{name}", None)

        def together(kind: str) -> torch.Tensor | None:
            parts = [take(f"self_attn.{p}_proj.{kind}") for p in "qkv"]
            return None if parts[0] is None else torch.cat(parts)  # type: ignore[arg-type]

        self.input_layernorm = take("input_layernorm.weight")
        # One product for q, k and v: one launch, and the narrow k and v share q's tiles.
        self.qkv_proj, self.qkv_bias = together("weight"), together("bias")
        self.o_proj, self.o_bias = take("self_attn.o_proj.weight"), take("self_attn.o_proj.bias")
        self.post_attention_layernorm = take("post_attention_layernorm.weight")
        self.gate_proj, self.gate_bias = take("mlp.gate_proj.weight"), take("mlp.gate_proj.bias")
        self.up_proj, self.up_bias = take("mlp.up_proj.weight"), take("mlp.up_proj.bias")
        self.down_proj, self.down_bias = take("mlp.down_proj.weight"), take("mlp.down_proj.bias")


class LlamaModel:
    """Weights and the three ways through them: all logits of a text, a prompt into a cache, one token more."""

    def __init__(self, config: LlamaConfig, weights: dict[str, torch.Tensor], ops: ModuleType) -> None:
        """``weights`` has a checkpoint's names (see ``checkpoint.load``) and is emptied."""
        self.config, self.ops = config, ops
        self.embed_tokens = weights.pop("model.embed_tokens.weight")
        self.lm_head = weights.pop("lm_head.weight", self.embed_tokens)
        self.norm = weights.pop("model.norm.weight")
        self.layers = [Layer(weights, i) for i in range(config.num_hidden_layers)]
        self.cos, self.sin = rope_table(config, config.max_position_embeddings, self.device)

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.dtype

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one decoding step reads: everything but the embeddings not looked up."""
        tensors = [t for layer in self.layers for t in vars(layer).values() if t is not None]
        return sum(t.nbytes for t in (*tensors, self.norm, self.lm_head))

    @torch.no_grad()
    def logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        """float32 (length, vocab_size) for a text of token ids (length,), without a cache."""

        def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.ops.flash_attention(q, k, v, causal=True)

        length = token_ids.shape[0]
        hidden = self._layers(token_ids[None], self.cos[:length], self.sin[:length], attention)
        return self._head(hidden[0])

    @torch.no_grad()
    def prefill(self, token_ids: torch.Tensor, cache: KVCache, sequence: int) -> torch.Tensor:
        """Take a prompt (length,) into the cache as ``sequence``; float32 logits (vocab_size,) of what follows it."""

        def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache.write_prompt(layer, sequence, k, v)
            return self.ops.flash_attention(q, k, v, causal=True)

        length = token_ids.shape[0]
        hidden = self._layers(token_ids[None], self.cos[:length], self.sin[:length], attention)
        cache.lengths[sequence] = length
        return self._head(hidden[0, -1:])[0]

    @torch.no_grad()
    def decode(self, token_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """One token more for every sequence, (batch,); float32 logits (batch, vocab_size) of what follows.

        A sequence that has filled the cache writes over its last token: its caller has stopped listening to it.
        """

        def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache.write_token(layer, k, v)
            o = self.ops.flash_decoding(q[:, :, 0], cache.keys[layer], cache.values[layer], cache.lengths)
            return o[:, :, None]

        positions = cache.lengths.clamp(max=cache.max_length - 1)
        cache.lengths.copy_(positions + 1)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        return self._head(self._layers(token_ids[:, None], cos, sin, attention)[:, 0])

    def _layers(
        self, token_ids: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Final hidden states (batch, length, hidden_size) of token ids (batch, length)."""
        ops, config = self.ops, self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        x = self.embed_tokens[token_ids]
        for i, layer in enumerate(self.layers):
            normed = ops.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
            qkv = ops.linear(normed, layer.qkv_proj, layer.qkv_bias)
            # (batch, length, heads, head_dim) → (batch, heads, length, head_dim), by strides alone.
            qkv = qkv.unflatten(-1, (heads + 2 * kv_heads, config.head_dim)).transpose(1, 2)
            q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
            q, k = ops.rotary_embedding(q, k, cos, sin)
            o = attention(i, q, k, v).transpose(1, 2).flatten(2)
            x = ops.linear(o, layer.o_proj, layer.o_bias, residual=x)
            normed = ops.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
            x = ops.linear(self._gated(normed, layer), layer.down_proj, layer.down_bias, residual=x)
        return x

    def _gated(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        if layer.gate_bias is None:
            return self.ops.swiglu(x, layer.gate_proj, layer.up_proj)
        gate = self.ops.linear(x, layer.gate_proj, layer.gate_bias)
        return self.ops.silu_mul(gate, self.ops.linear(x, layer.up_proj, layer.up_bias))

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = self.ops.rms_norm(hidden, self.norm, self.config.rms_norm_eps)
        return self.ops.linear(normed, self.lm_head).float()
