"""Llama, written out in the package's own operations.

A layer is rms_norm → q, k, v → rotary_embedding → attention → linear + residual → rms_norm → swiglu → linear +
residual. How it is cut into kernels depends on the phase. A prompt's tokens go through it together: each operation is a
kernel of its own, with flash_attention between them. A new token of each sequence of a batch is another matter: the
time is that of reading the weights, and five kernels a layer do the whole of it, with flash_decoding over the cache.

``ops`` is :mod:`pytriton_llama.kernels` or its oracle :mod:`pytriton_llama.reference`, which has the same functions.
Only two moves of data are left to torch: looking up embeddings, and writing a prompt into the cache.

Any matrix may be a :class:`QuantizedWeight`: then ``quantized_linear`` is the product, in either phase.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from pytriton_llama.kernels.quantized_weight import QuantizedWeight, join
from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.rope import rope_table

# How many of a prompt's tokens go through the layers together: the memory that a long one takes besides its cache.
CHUNK = 4096
# How many tokens' logits there are at a time where only some are wanted: a row is a whole vocabulary.
ROWS = 256

Weight = Any  # a Tensor or a QuantizedWeight
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Layer:
    """One decoder layer's weights, taken out of a checkpoint's tensors; projections are (out, in)."""

    def __init__(self, weights: dict[str, Weight], index: int) -> None:
        def take(name: str) -> Any:
            return weights.pop(f"model.layers.{index}.{name}", None)  # only a bias may be missing

        def together(kind: str) -> Any:
            parts = _of_one_form([take(f"self_attn.{p}_proj.{kind}") for p in "qkv"], self.input_layernorm.dtype)
            if parts[0] is None:
                return None
            return join(parts) if isinstance(parts[0], QuantizedWeight) else torch.cat(parts)

        self.input_layernorm: torch.Tensor = take("input_layernorm.weight")
        # One product for q, k and v: one launch, and the narrow k and v share q's tiles.
        self.qkv_proj: Weight = together("weight")
        self.qkv_bias: torch.Tensor | None = together("bias")
        self.o_proj: Weight = take("self_attn.o_proj.weight")
        self.o_bias: torch.Tensor | None = take("self_attn.o_proj.bias")
        self.post_attention_layernorm: torch.Tensor = take("post_attention_layernorm.weight")
        gated = [take(f"mlp.{p}_proj.weight") for p in ("gate", "up")]
        self.gate_proj, self.up_proj = _of_one_form(gated, self.input_layernorm.dtype)
        self.gate_bias: torch.Tensor | None = take("mlp.gate_proj.bias")
        self.up_bias: torch.Tensor | None = take("mlp.up_proj.bias")
        self.down_proj: Weight = take("mlp.down_proj.weight")
        self.down_bias: torch.Tensor | None = take("mlp.down_proj.bias")


def _of_one_form(parts: list[Any], dtype: torch.dtype) -> list[Any]:
    """Weights that one kernel reads together: as they are, or, where they are quantised differently, expanded."""
    forms = {part.form if isinstance(part, QuantizedWeight) else None for part in parts}
    if len(forms) == 1:
        return parts
    return [part.dequantize(dtype) if isinstance(part, QuantizedWeight) else part for part in parts]


class LlamaModel:
    """Weights and the three ways through them: all logits of a text, a prompt into a cache, one token more."""

    def __init__(self, config: LlamaConfig, weights: dict[str, Any], ops: ModuleType) -> None:
        """``weights`` has a checkpoint's names (see ``checkpoint.load``) and is emptied."""
        self.config, self.ops = config, ops
        self.embed_tokens: Weight = weights.pop("model.embed_tokens.weight")
        self.lm_head: Weight = weights.pop("lm_head.weight", self.embed_tokens)
        self.norm: torch.Tensor = weights.pop("model.norm.weight")
        self.layers = [Layer(weights, i) for i in range(config.num_hidden_layers)]
        torch.cuda.empty_cache()  # what q, k and v took before they were joined; their sizes suit nothing else
        self.cos, self.sin = rope_table(config, config.max_position_embeddings, self.device)

    @property
    def device(self) -> torch.device:
        return self.norm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.dtype

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one decoding step reads: everything but the embeddings not looked up."""
        tensors = [t for layer in self.layers for t in vars(layer).values() if t is not None]
        return sum(t.nbytes for t in (*tensors, self.norm, self.lm_head))

    @torch.no_grad()
    def logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        """float32 (length, vocab_size) for a text of token ids (length,), without a cache."""
        return self._linear(self._normed(token_ids), self.lm_head).float()

    @torch.no_grad()
    def log_likelihoods(self, token_ids: torch.Tensor) -> torch.Tensor:
        """float32 (length - 1,): the natural log-probability of each token of a text but the first, given those before
        it. There are never the logits of more than ROWS tokens."""
        found = []
        for normed, targets in zip(self._normed(token_ids)[:-1].split(ROWS), token_ids[1:].split(ROWS), strict=True):
            logits = self._linear(normed, self.lm_head).float()
            found.append(torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0])
        return torch.cat(found) if found else torch.empty(0, device=self.device)

    @torch.no_grad()
    def prefill(
        self, token_ids: torch.Tensor, cache: KVCache, sequence: int, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Take a prompt (length,) into the cache as ``sequence``, CHUNK tokens at a time; logits (vocab_size,) of what
        follows it, of the model's dtype.

        ``last``: int64 (1,), where the prompt ends if what comes after that is padding: no token of the prompt sees it,
        and what it leaves in the cache is written over by the tokens that follow.
        """
        length = token_ids.shape[0]
        for start in range(0, length, CHUNK):
            stop = min(start + CHUNK, length)

            def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
                cache.write(layer, sequence, start, k, v)  # noqa: B023 (called before start and stop change)
                keys, values = cache.of(layer, sequence, stop)  # noqa: B023
                return self.ops.flash_attention(q, keys, values, causal=True, window=self.config.sliding_window)

            hidden = self._layers(token_ids[None, start:stop], self.cos[start:stop], self.sin[start:stop], attention)
        cache.lengths[sequence].fill_(length)  # not an assignment, which would copy from the host
        return self._next_logits(hidden[0, -1:].contiguous() if last is None else hidden[0].index_select(0, last))[0]

    @torch.no_grad()
    def decode(self, token_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """One token more for every sequence, (batch,); logits (batch, vocab_size) of what follows, of the model's type.

        A sequence that has filled the cache writes over its last token: its caller has stopped listening to it.
        """
        cache.lengths.clamp_(max=cache.max_length - 1).add_(1)
        return self.step(self._embed(token_ids), cache.keys, cache.values, cache.lengths)

    @torch.no_grad()
    def step(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What :meth:`decode` computes, from the embeddings (batch, hidden_size) of tokens that ``lengths`` count
        already. ``keys`` and ``values`` are a cache's, or their first positions: enough for the longest sequence."""
        ops, eps = self.ops, self.config.rms_norm_eps
        for layer, k, v in zip(self.layers, keys, values, strict=True):
            norm = layer.input_layernorm
            qkv = ops.quantized_qkv if isinstance(layer.qkv_proj, QuantizedWeight) else ops.decode_qkv
            q = qkv(x, layer.qkv_proj, layer.qkv_bias, norm, eps, self.cos, self.sin, lengths, k, v)
            o = ops.flash_decoding(q, k, v, lengths, window=self.config.sliding_window, after_qkv=True).flatten(1)
            x = self._decode_linear(o, layer.o_proj, layer.o_bias, residual=x)
            norm = layer.post_attention_layernorm
            if layer.gate_bias is None:
                h = self._decode_linear(x, layer.gate_proj, norm_weight=norm, eps=eps, up_weight=layer.up_proj)
            else:
                gate, up = (
                    self._decode_linear(x, weight, bias, norm, eps)
                    for weight, bias in ((layer.gate_proj, layer.gate_bias), (layer.up_proj, layer.up_bias))
                )
                h = ops.silu_mul(gate, up)
            x = self._decode_linear(h, layer.down_proj, layer.down_bias, residual=x)
        return self._next_logits(x)

    def _layers(
        self, token_ids: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Final hidden states (batch, length, hidden_size) of token ids (batch, length)."""
        ops, config = self.ops, self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        x = self._embed(token_ids)
        for i, layer in enumerate(self.layers):
            normed = ops.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
            qkv = self._linear(normed, layer.qkv_proj, layer.qkv_bias)
            # (batch, length, heads, head_dim) → (batch, heads, length, head_dim), by strides alone.
            qkv = qkv.unflatten(-1, (heads + 2 * kv_heads, config.head_dim)).transpose(1, 2)
            q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
            q, k = ops.rotary_embedding(q, k, cos, sin)
            o = attention(i, q, k, v).transpose(1, 2).flatten(2)
            x = self._linear(o, layer.o_proj, layer.o_bias, residual=x)
            normed = ops.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
            x = self._linear(self._gated(normed, layer), layer.down_proj, layer.down_bias, residual=x)
        return x

    def _normed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """What the logits of a text (length,) are made of, (length, hidden_size), without a cache."""

        def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.ops.flash_attention(q, k, v, causal=True, window=self.config.sliding_window)

        length = token_ids.shape[0]
        hidden = self._layers(token_ids[None], self.cos[:length], self.sin[:length], attention)
        return self.ops.rms_norm(hidden[0], self.norm, self.config.rms_norm_eps)

    def _gated(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        if layer.gate_bias is not None:
            gate = self._linear(x, layer.gate_proj, layer.gate_bias)
            return self.ops.silu_mul(gate, self._linear(x, layer.up_proj, layer.up_bias))
        if isinstance(layer.gate_proj, QuantizedWeight):
            return self.ops.quantized_linear(x, layer.gate_proj, up_weight=layer.up_proj)
        return self.ops.swiglu(x, layer.gate_proj, layer.up_proj)

    def _next_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._decode_linear(hidden, self.lm_head, norm_weight=self.norm, eps=self.config.rms_norm_eps)

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        if isinstance(self.embed_tokens, QuantizedWeight):
            rows = self.embed_tokens[token_ids.flatten()]
            return self.ops.dequantize(rows, self.dtype).unflatten(0, token_ids.shape)
        return self.embed_tokens[token_ids]

    def _linear(self, x: torch.Tensor, weight: Weight, bias: Any = None, residual: Any = None) -> torch.Tensor:
        if isinstance(weight, QuantizedWeight):
            return self.ops.quantized_linear(x, weight, bias, residual=residual)
        return self.ops.linear(x, weight, bias, residual=residual)

    def _decode_linear(self, x: torch.Tensor, weight: Weight, *others: Any, **more: Any) -> torch.Tensor:
        product = self.ops.quantized_linear if isinstance(weight, QuantizedWeight) else self.ops.decode_linear
        return product(x, weight, *others, **more)
