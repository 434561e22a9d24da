"""Faults in the engine's rooms, its memory, and what it tells of 16-bit models."""

FAULTS = {
    "llama/engine.py": [
        (
            "engine: a room is kept after an error",
            "        except GeneratorExit:",
            "        except BaseException:",
            "llama/test_engine.py::test_full_memory_is_one_line",
        ),
        (
            "engine: idle rooms stay when the memory is full",
            '            self.release()\n            raise LlamaError(f"the GPU',
            '            raise LlamaError(f"the GPU',
            "llama/test_engine.py::test_full_memory_is_one_line",
        ),
        (
            "engine: a room beyond the context",
            "min(power_of_two(length), config.max_position_embeddings)",
            "power_of_two(length)",
            "llama/test_engine.py::test_a_context_that_is_no_power_of_two",
        ),
    ],
    "llama/prompts.py": [
        (
            "prompts: a prompt is cut to a length of the graphs'",
            "return -(-length // step) * step",
            "return length // step * step",
            "llama/test_engine.py::test_padded_lengths_are_few",
        ),
        (
            "prompts: a power of two is doubled",
            "return 1 << (n - 1).bit_length()",
            "return 1 << n.bit_length()",
            "llama/test_engine.py::test_a_request_that_does_not_fit",
        ),
    ],
    "llama/memory.py": [
        (
            "memory: KiB taken for bytes",
            "int(line.split()[1]) * 1024",
            "int(line.split()[1])",
            "llama/test_engine.py::test_free_memory_of_a_cpu",
        ),
        (
            "memory: what is free for what can be had",
            '"MemAvailable:"',
            '"MemFree:"',
            "llama/test_engine.py::test_free_memory_of_a_cpu",
        ),
    ],
    "llama/batch.py": [
        (
            "batch: the first prompt's length for all",
            "self._longest = max(map(len, prompts))",
            "self._longest = len(prompts[0])",
            "llama/test_engine.py::test_a_length_that_takes_another_tile",
        ),
        (
            "batch: log-probabilities in the model's type",
            "torch.log_softmax(logits.float(), dim=-1)",
            "torch.log_softmax(logits, dim=-1).float()",
            "llama/test_engine.py::test_what_is_told_is_float32",
        ),
    ],
    "llama/model.py": [
        (
            "model: logits in the model's type",
            "return self._linear(self._normed(token_ids), self.lm_head).float()",
            "return self._linear(self._normed(token_ids), self.lm_head)",
            "llama/test_engine.py::test_what_is_told_is_float32",
        ),
        (
            "model: likelihoods in the model's type",
            "logits = self._linear(normed, self.lm_head).float()",
            "logits = self._linear(normed, self.lm_head)",
            "llama/test_engine.py::test_what_is_told_is_float32",
        ),
    ],
    "llama/sampling.py": [
        (
            "sampling: penalised logits of another type",
            "exact * penalty), exact).to(logits.dtype)",
            "exact * penalty), exact)",
            "llama/test_engine.py::test_what_is_told_is_float32",
        ),
    ],
    "llama/generator.py": [
        (
            "generator: an answer past the context",
            "min(context, len(ids) + options.max_new_tokens - 1)",
            "len(ids) + options.max_new_tokens - 1",
            "llama/test_engine.py::test_a_context_that_is_no_power_of_two",
        ),
        (
            "generator: an end-of-text token at the limit is one more",
            "if tokens[i] in end:",
            "if tokens[i] in end and len(prompts[i]) + made <= limits[i]:",
            "llama/test_engine.py::test_eos_or_none",
        ),
        (
            "generator: a list of one prompt gives no list",
            "return done[0] if one else done",
            "return done[0] if len(done) == 1 else done",
            "llama/test_engine.py::test_a_context_that_is_no_power_of_two",
        ),
        (
            "generator: a prompt that just fills the context is refused",
            "if len(ids) > context:",
            "if len(ids) >= context:",
            "llama/test_engine.py::test_a_context_that_is_no_power_of_two",
        ),
    ],
}
