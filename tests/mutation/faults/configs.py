"""Faults in what config.json and a GGUF file say."""

FAULTS = {
    "llama/config.py": [
        (
            "config: layer_types is not looked at",
            '    "layer_types": (None,),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: compression_config is not looked at",
            '    "compression_config": (None,),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: num_experts is not looked at",
            '    "num_experts": (None,),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: n_routed_experts is not looked at",
            '    "n_routed_experts": (None,),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: use_qk_norm is not looked at",
            '    "use_qk_norm": (None, False),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: attn_logit_softcapping is not looked at",
            '    "attn_logit_softcapping": (None,),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: attention_multiplier is not looked at",
            '    "attention_multiplier": (None,),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: residual_multiplier is not looked at",
            '    "residual_multiplier": (None, 1),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: dynamic scaling without a limit",
            "if scaling.factor * max_length > _MAX_CONTEXT:",
            "if False:",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: a null rope_scaling hides rope_parameters",
            'if values.get("rope_scaling") else',
            'if "rope_scaling" in values else',
            "llama/test_config.py::test_rope_forms",
        ),
        (
            "config: type goes before rope_type",
            'rope.get("rope_type", rope.get("type", "default"))',
            'rope.get("type", rope.get("rope_type", "default"))',
            "llama/test_config.py::test_rope_forms",
        ),
        (
            "config: the original context within the scaling goes first",
            "size(rope, name, max_length, key) if values.get(name) is None else size(values, name)",
            "size(rope, name, values.get(name, max_length), key)",
            "llama/test_config.py::test_rope_forms",
        ),
        (
            "config: groups that o_proj's rows do not consist of",
            "(hidden_size, heads * head_dim, intermediate_size)",
            "(hidden_size, intermediate_size)",
            "llama/test_config.py::test_refuses_by_name",
        ),
    ],
    "llama/values.py": [
        (
            "values: true taken for a token id",
            "if any(type(i) is not int or i < 0 for i in ids):",
            "if any(not isinstance(i, int) or i < 0 for i in ids):",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "values: true taken for a number",
            "if type(value) not in (int, float) or",
            "if not isinstance(value, int | float) or",
            "llama/test_config.py::test_refuses_by_name",
        ),
    ],
    "llama/rope.py": [
        (
            "rope: yarn's ramp begins before the first pair",
            "max(first, 0), min(last",
            "first, min(last",
            "llama/test_rope.py::test_frequencies_are_transformers",
        ),
    ],
    "llama/gguf.py": [
        (
            "gguf: one key/value head where the file names none",
            'fields.get("llama.attention.head_count_kv", heads)',
            'fields.get("llama.attention.head_count_kv", 1)',
            "llama/test_gguf.py::test_what_a_file_says_and_leaves_out",
        ),
        (
            "gguf: head_dim from the sizes alone",
            'fields.get("llama.attention.key_length")',
            "None",
            "llama/test_gguf.py::test_what_a_file_says_and_leaves_out",
        ),
        (
            "gguf: the vocabulary's size from its tokens alone",
            'fields.get("llama.vocab_size", len(fields["tokenizer.ggml.tokens"]))',
            'len(fields["tokenizer.ggml.tokens"])',
            "llama/test_gguf.py::test_what_a_file_says_and_leaves_out",
        ),
        (
            "gguf: Llama 3's theta where the file names none",
            '"llama.rope.freq_base", 10000.0',
            '"llama.rope.freq_base", 500000.0',
            "llama/test_gguf.py::test_what_a_file_says_and_leaves_out",
        ),
        (
            "gguf: the attention's biases taken for the MLP's",
            '"blk.0.ffn_gate.bias" in tensors',
            '"blk.0.attn_q.bias" in tensors',
            "llama/test_gguf.py::test_biases_of_one_kind",
        ),
        (
            "gguf: divisors beside another scaling",
            'if kind != "none":',
            "if False:",
            "llama/test_gguf.py::test_refuses_by_name",
        ),
        (
            "gguf: yarn's extrapolation is not looked at",
            '        "yarn_ext_factor": 1,\n',
            "",
            "llama/test_gguf.py::test_refuses_by_name",
        ),
        (
            "gguf: values of another length than keys",
            ', "llama.attention.value_length"):',
            ",):",
            "llama/test_gguf.py::test_refuses_by_name",
        ),
    ],
    "llama/gguf_weights.py": [
        (
            "gguf: the scheme of the first tensor",
            "return max(kept, key=kept.count)",
            "return kept[0]",
            "llama/test_gguf_quantized.py::test_the_scheme_is_that_of_most_layers",
        ),
        (
            "gguf: the embedding has a say in the scheme",
            'for name, tensor in tensors.items() if name.startswith("blk.")]',
            "for name, tensor in tensors.items()]",
            "llama/test_gguf_quantized.py::test_the_scheme_is_that_of_most_layers",
        ),
    ],
}
