"""Faults in configs, weights and their conversion."""

FAULTS = {
    "llama/rope.py": [
        (
            "rope: llama3's scaling without its smooth part",
            "scaling.low_freq_factor)).clamp(0, 1)",
            "scaling.low_freq_factor)).clamp(0, 1).round()",
            "llama/test_rope.py::test_frequencies_are_transformers",
        ),
        (
            "rope: linear scaling multiplies",
            "return frequencies / scaling.factor",
            "return frequencies * scaling.factor",
            "llama/test_rope.py::test_frequencies_are_transformers",
        ),
        (
            "rope: dynamic scaling without its exponent",
            "** (head_dim / (head_dim - 2))",
            "",
            "llama/test_rope.py::test_dynamic_rows_are_those_of_a_text_that_ends_there",
        ),
        (
            "rope: yarn's attention factor is left out",
            ".mul_(factor)",
            "",
            "llama/test_rope.py::test_frequencies_are_transformers",
        ),
        (
            "rope: yarn's ramp ends one pair early",
            "math.floor(first), math.ceil(last)",
            "math.floor(first), math.floor(last)",
            "llama/test_rope.py::test_frequencies_are_transformers",
        ),
    ],
    "llama/config.py": [
        (
            "config: generation_config.json is ignored",
            'values["eos_token_id"] = eos',
            "pass",
            "llama/test_config.py::test_generation_config_wins_for_eos",
        ),
        (
            "config: a Llama's default of key/value heads in a Mistral",
            "8 if mistral else heads)",
            "heads)",
            "llama/test_config.py::test_mistral_is_read_as_transformers_reads_it",
        ),
        (
            "config: rope_theta is read from one place only",
            'theta = positive({**values, **rope}, "rope_theta", 10000.0)',
            'theta = positive(values, "rope_theta", 10000.0)',
            "llama/test_config.py::test_agrees_with_transformers_on_its_own_files",
        ),
        (
            "config: a rotary embedding of a part of each head is run as a Llama's",
            '    "partial_rotary_factor": (None, 1),\n',
            "",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: a key that is 0 or false is not looked at",
            "if key in values and values[key] not in neutral:",
            "if values.get(key) and values[key] not in neutral:",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "config: yarn's default factor upside down",
            "max_length / original, original",
            "original / max_length, original",
            "llama/test_rope.py::test_frequencies_are_transformers",
        ),
    ],
    "llama/values.py": [
        (
            "values: a token id that is the vocabulary's size",
            "if ids and max(ids) >= vocab_size:",
            "if ids and max(ids) > vocab_size:",
            "llama/test_config.py::test_refuses_by_name",
        ),
        (
            "values: true taken for 1",
            "if type(value) is not int or value < 1:",
            "if not isinstance(value, int) or value < 1:",
            "llama/test_config.py::test_refuses_by_name",
        ),
    ],
    "llama/checkpoint.py": [
        (
            "checkpoint: a tied model may hold any tensor",
            'config.tie_word_embeddings and name.startswith("lm_head.weight")',
            'config.tie_word_embeddings or name.startswith("lm_head.weight")',
            "llama/test_checkpoint.py::test_harmless_extras_are_ignored",
        ),
        (
            "checkpoint: NaN is loaded",
            '            check_finite(tensors[name], f"{file}: {name}")',
            "            pass",
            "llama/test_broken_checkpoints.py::test_one_clear_line",
        ),
        (
            "checkpoint: tensors change with their file",
            "dtype=wanted, copy=True)",
            "dtype=wanted)",
            "llama/test_checkpoint.py::test_loaded_tensors_do_not_change_with_the_file",
        ),
        (
            "checkpoint: a link leads out of the folder",
            " or not _stays(folder, folder / name)",
            "",
            "llama/test_broken_checkpoints.py::test_one_clear_line",
        ),
        (
            "checkpoint: a tensor that stands in two files",
            "if name in headers:",
            "if False:",
            "llama/test_broken_checkpoints.py::test_one_clear_line",
        ),
        (
            "checkpoint: integers taken for weights",
            "if header.dtype not in dtypes:",
            "if False:",
            "llama/test_broken_checkpoints.py::test_one_clear_line",
        ),
        (
            "checkpoint: the index of several files is ignored",
            "if (folder / SINGLE).exists():",
            "if (folder / SINGLE).exists() or True:",
            "llama/test_checkpoint.py::test_equals_what_transformers_saved",
        ),
        (
            "checkpoint: the hub's own links are refused",
            'target.parent in (home, home.parent.parent / "blobs")',
            "target.parent == home",
            "llama/test_broken_checkpoints.py::test_links_within_the_hub_s_own_cache",
        ),
    ],
    "llama/shards.py": [
        (
            "shards: the index names the first file for all",
            '"weight_map": {name: names[i] for name, i in places.items()}',
            '"weight_map": {name: names[0] for name, i in places.items()}',
            "llama/test_gguf.py::test_several_files_of_weights",
        ),
        (
            "shards: others may not read a shared cache",
            "        files[-1].chmod(folder.stat().st_mode & 0o666)  # save_file lets only its user "
            "read; a cache may be shared\n",
            "",
            "llama/test_gguf.py::test_several_files_of_weights",
        ),
        (
            "shards: a file grows past its limit by a tensor",
            "+ tensor.nbytes > SHARD_BYTES",
            "> SHARD_BYTES",
            "llama/test_gguf.py::test_several_files_of_weights",
        ),
    ],
    "llama/quantize.py": [
        (
            "quantize: the largest weight is taken for the largest size",
            "torch.where(highest > -lowest, highest, lowest)",
            "highest",
            "llama/test_quantize.py::test_rounding_takes_the_range_of_the_weights",
        ),
        (
            "quantize: errors of scales that are not stored so",
            "scales = scales.half().float()",
            "scales = scales.float()",
            "llama/test_quantize.py::test_every_weight_takes_the_nearest_value",
        ),
        (
            "quantize: least squares without its intercept",
            "return scales, mean - scales * q_mean",
            "return scales, mean",
            "llama/test_quantize.py::test_clip_gains_on_gaussian_weights",
        ),
        (
            "quantize: the chat template is left behind",
            '"special_tokens_map.json", "*.jinja")',
            '"special_tokens_map.json")',
            "llama/test_quantize.py::test_a_folder_loads_like_any_other",
        ),
    ],
    "llama/scheme.py": [
        (
            "scheme: lm_head in as few bits as the layers",
            '("model.embed_tokens.weight", "lm_head.weight")',
            '("model.embed_tokens.weight",)',
            "llama/test_quantize.py::test_a_folder_loads_like_any_other",
        ),
    ],
    "llama/gguf_weights.py": [
        (
            "gguf: signed bytes read as unsigned",
            "bits ^ 128",
            "bits",
            "llama/test_gguf_quantized.py::test_random_blocks_equal_gguf_s_own_values",
        ),
        (
            "gguf: the halves of a byte taken for neighbours",
            "torch.cat([bits & 15, bits >> 4], dim=-1)",
            "torch.stack([bits & 15, bits >> 4], dim=-1).flatten(-2)",
            "llama/test_gguf_quantized.py::test_random_blocks_equal_gguf_s_own_values",
        ),
        (
            "gguf: k stays in the interleaved order",
            'rotary = ".q_proj." in name or ".k_proj." in name',
            'rotary = ".q_proj." in name',
            "llama/test_gguf.py::test_gives_back_what_was_written",
        ),
        (
            "gguf: biases stay in the interleaved order",
            'rotary = ".q_proj." in name or ".k_proj." in name',
            'rotary = name.endswith((".q_proj.weight", ".k_proj.weight"))',
            "llama/test_gguf.py::test_biases",
        ),
        (
            "gguf: rows permuted the wrong way",
            "unflatten(0, (-1, head_dim // 2, 2))",
            "unflatten(0, (-1, 2, head_dim // 2))",
            "llama/test_gguf.py::test_gives_back_what_was_written",
        ),
    ],
    "llama/gguf.py": [
        (
            "gguf: the end-of-turn token does not end a text",
            "eos[0] if len(set(eos)) == 1 else list(dict.fromkeys(eos)) or None",
            "eos[0] if eos else None",
            "llama/test_gguf.py::test_token_ids_and_window",
        ),
        (
            "gguf: 9.999999747378752e-06",
            'return float(f"{value:.6g}")',
            "return float(value)",
            "llama/test_gguf.py::test_gives_back_what_was_written",
        ),
        (
            "gguf: llama3's factor from the wrong frequency",
            ".data.max())",
            ".data[0])",
            "llama/test_gguf.py::test_llama3_scaling_is_recovered",
        ),
    ],
    "llama/gguf_reader.py": [
        (
            "gguf: a file that ends early is read for ever",
            "if stop > len(self.data):",
            "if False:",
            "llama/test_broken_checkpoints.py::test_one_clear_line",
        ),
        (
            "gguf: values counted, and never too many",
            "if self._values > _MAX_VALUES:",
            "if False:",
            "llama/test_gguf.py::test_what_a_file_promises",
        ),
        (
            "gguf: half a number at the file's end taken for one",
            "stop = int(offset) + int(count) * np.dtype(dtype).itemsize",
            "stop = int(offset)",
            "llama/test_gguf.py::test_what_a_file_promises",
        ),
    ],
}
