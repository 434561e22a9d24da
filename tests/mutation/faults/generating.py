"""Faults in the engine, sampling and streams."""

FAULTS = {
    "llama/engine.py": [
        (
            "engine: one token too few",
            "most = 1 + max(limit",
            "most = max(limit",
            "llama/test_engine.py::test_eos_or_none",
        ),
        (
            "engine: two threads at a time",
            "with self._lock, held_back():",
            "with held_back():",
            "llama/test_engine.py::test_threads_take_turns",
        ),
        (
            "engine: Ctrl-C leaves a kernel half-way",
            "with self._lock, held_back():",
            "with self._lock:",
            "llama/test_engine.py::test_ctrl_c_waits_for_the_step",
        ),
        (
            "engine: idle rooms are in the way of a request",
            "                return Batch(self.model, size, max_length, self._prompts if self.graphs "
            "else None)\n"
            "            self.release()",
            "                return Batch(self.model, size, max_length, self._prompts if self.graphs else None)",
            "llama/test_engine.py::test_a_request_that_does_not_fit",
        ),
    ],
    "llama/batch.py": [
        (
            "batch: one seed for all sequences",
            "self.seeds.copy_(seed + torch.arange(self.size))",
            "self.seeds.fill_(seed)",
            "llama/test_engine.py::test_a_seed_is_a_sequences_own",
        ),
        (
            "batch: tokens of an earlier request are still seen",
            "            self.seen.zero_()\n",
            "",
            "llama/test_engine.py::test_nothing_is_left_of_other_options",
        ),
        (
            "batch: end-of-text ends a sequence that nothing should stop",
            "self.stop_tokens.copy_(self.eos if eos else torch.full_like(self.eos, -1))",
            "self.stop_tokens.copy_(self.eos)",
            "llama/test_engine.py::test_eos_or_none",
        ),
        (
            "batch: notes the tokens of the wrong step",
            "row = (self.steps[:1].long() - 1) % SLOTS",
            "row = self.steps[:1].long() % SLOTS",
            "llama/test_engine.py::test_logprobs_are_the_models_own",
        ),
        (
            "batch: the penalty forgets the answer's tokens",
            "            self.seen.scatter_(1, drawn, True)",
            "            pass",
            "llama/test_generator.py::test_repetition_penalty_as_transformers",
        ),
        (
            "batch: log-probabilities after penalty and restrictions",
            "self._heed_tokens(logits, kind)",
            "self._heed_tokens(scores, kind)",
            "llama/test_engine.py::test_logprobs_are_the_models_own",
        ),
        (
            "batch: a view of the cache that ends before the sequence",
            "min(self._longest + 1, self.cache.max_length)",
            "self._longest",
            "llama/test_engine.py::test_a_length_that_takes_another_tile",
        ),
        (
            "batch: the first sequence has seen all prompts",
            "self.seen[i].index_fill_(0, torch.tensor(ids, device=device), True)",
            "self.seen[0].index_fill_(0, torch.tensor(ids, device=device), True)",
            "llama/test_engine.py::test_a_seed_is_a_sequences_own",
        ),
        (
            "batch: no top-k taken for a top-k of 0",
            "self.top_k.fill_(sampling.top_k or self.model.config.vocab_size)",
            "self.top_k.fill_(sampling.top_k or 0)",
            "llama/test_requests.py::test_random_requests",
        ),
    ],
    "llama/sampling.py": [
        (
            "sampling: the penalty makes negative logits likelier",
            "torch.where(exact > 0, exact / penalty, exact * penalty)",
            "exact / penalty",
            "llama/test_sampling.py::test_each_row_has_its_own_parameters",
        ),
        (
            "sampling: top-p before temperature",
            "torch.softmax(ordered.float() / temperature[:, None], dim=-1)",
            "torch.softmax(ordered.float(), dim=-1)",
            "llama/test_sampling.py::test_probabilities_as_transformers",
        ),
        (
            "sampling: top-p drops the token that crosses the threshold",
            "before = probabilities.cumsum(dim=-1) - probabilities",
            "before = probabilities.cumsum(dim=-1)",
            "llama/test_sampling.py::test_probabilities_as_transformers",
        ),
        (
            "sampling: top-k drops the k-th",
            "ordered.masked_fill(ordered < last,",
            "ordered.masked_fill(ordered <= last,",
            "llama/test_sampling.py::test_probabilities_as_transformers",
        ),
        (
            "sampling: min-p of all probability",
            "min_p[:, None] * probabilities[:, :1]",
            "min_p[:, None]",
            "llama/test_sampling.py::test_probabilities_as_transformers",
        ),
        (
            "sampling: the first row's top-p for all",
            "top_p[:, None]\n",
            "top_p[:1, None]\n",
            "llama/test_sampling.py::test_each_row_has_its_own_parameters",
        ),
        (
            "sampling: a penalty below 1 is ignored",
            "return self.repetition_penalty not in (None, 1)",
            "return (self.repetition_penalty or 0) > 1",
            "llama/test_sampling.py::test_probabilities_as_transformers",
        ),
        (
            "sampling: with stop strings end-of-text no longer counts",
            "return self.stop is None or bool(self.stop_strings)",
            "return self.stop is None",
            "llama/test_generator.py::test_stop_strings",
        ),
        (
            "sampling: a temperature of NaN",
            'if not 0 <= self.temperature < float("inf"):',
            "if self.temperature < 0:",
            "llama/test_sampling.py::test_values_outside_their_range_are_named",
        ),
    ],
    "llama/generator.py": [
        (
            "generator: one token more than was asked for",
            "len(ids) + options.max_new_tokens - 1)",
            "len(ids) + options.max_new_tokens)",
            "llama/test_generator.py::test_a_model_of_random_weights_speaks_in_token_ids",
        ),
        (
            "generator: ends one token early",
            "last = len(prompts[i]) + made > limits[i]",
            "last = len(prompts[i]) + made >= limits[i]",
            "llama/test_generator.py::test_a_model_of_random_weights_speaks_in_token_ids",
        ),
        (
            "generator: the first sequence's end ends all",
            "if tokens[i] in end:",
            "if tokens[0] in end:",
            "llama/test_engine.py::test_eos_or_none",
        ),
        (
            "generator: perplexity counts the first token of a piece",
            "math.ceil(len(ids) / context)))",
            "1))",
            "llama/test_generator.py::test_perplexity_of_pieces",
        ),
        (
            "generator: a token id just outside the vocabulary",
            "0 <= min(ids) <= max(ids) < vocab_size",
            "0 <= min(ids) <= max(ids) <= vocab_size",
            "llama/test_generator.py::test_bad_requests_are_named",
        ),
        (
            "generator: only the first end-of-text token ends",
            "end = self.config.eos_token_ids if options.eos else ()",
            "end = self.config.eos_token_ids[:1] if options.eos else ()",
            "llama/test_engine.py::test_eos_or_none",
        ),
    ],
}
