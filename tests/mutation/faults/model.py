"""Faults in the model and its cache."""

FAULTS = {
    "llama/cache.py": [
        (
            "cache: a later chunk's values at the start",
            "self.values[layer, sequence, :, start : start + v.shape[2]] = v[0]",
            "self.values[layer, sequence, :, : v.shape[2]] = v[0]",
            "llama/test_engine.py::test_prefill_in_chunks",
        ),
        (
            "cache: the first sequence's keys for all",
            "self.keys[layer, sequence, None, :, :length]",
            "self.keys[layer, 0, None, :, :length]",
            "llama/test_engine.py::test_prefill_in_chunks",
        ),
    ],
    "llama/model.py": [
        (
            "model: prefill forgets the sliding window",
            "keys, values, causal=True, window=self.config.sliding_window)",
            "keys, values, causal=True)",
            "llama/test_model.py::test_prefill_and_greedy_tokens",
        ),
        (
            "model: a decode step forgets the sliding window",
            "lengths, window=self.config.sliding_window, after_qkv",
            "lengths, after_qkv",
            "llama/test_model.py::test_prefill_and_greedy_tokens",
        ),
        (
            "model: a chunk at the first one's positions",
            "self.cos[start:stop], self.sin[start:stop]",
            "self.cos[: stop - start], self.sin[: stop - start]",
            "llama/test_engine.py::test_prefill_in_chunks",
        ),
        (
            "model: a decode step leaves out the MLP's last bias",
            "self._decode_linear(h, layer.down_proj, layer.down_bias, residual=x)",
            "self._decode_linear(h, layer.down_proj, residual=x)",
            "llama/test_model.py::test_prefill_and_greedy_tokens",
        ),
        (
            "model: a decode step leaves out the attention's last bias",
            "self._decode_linear(o, layer.o_proj, layer.o_bias, residual=x)",
            "self._decode_linear(o, layer.o_proj, residual=x)",
            "llama/test_model.py::test_prefill_and_greedy_tokens",
        ),
        (
            "model: a full cache is written past its end",
            "cache.lengths.clamp_(max=cache.max_length - 1).add_(1)",
            "cache.lengths.clamp_(max=cache.max_length).add_(1)",
            "llama/test_engine.py::test_a_full_cache_is_not_passed",
        ),
        (
            "model: a decode step takes the default eps",
            "ops, eps = self.ops, self.config.rms_norm_eps",
            "ops, eps = self.ops, 1e-6",
            "llama/test_model.py::test_prefill_and_greedy_tokens",
        ),
        (
            "model: the last norm takes the default eps",
            "norm_weight=self.norm, eps=self.config.rms_norm_eps)",
            "norm_weight=self.norm)",
            "llama/test_model.py::test_prefill_and_greedy_tokens",
        ),
        (
            "model: a token is predicted from itself",
            "_normed(token_ids)[:-1].split(ROWS), token_ids[1:].split(ROWS)",
            "_normed(token_ids)[1:].split(ROWS), token_ids[1:].split(ROWS)",
            "llama/test_generator.py::test_perplexity_of_pieces",
        ),
        (
            "model: weights of different forms are joined as they are",
            "if len(forms) == 1:",
            "if len(forms) >= 1:",
            "llama/test_gguf_quantized.py::test_mixed_forms_run_as_their_values",
        ),
    ],
}
