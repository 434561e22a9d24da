"""``config.json``: read as transformers reads it; what the model cannot compute is refused by name."""

import json
import math
import random

import pytest
import transformers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.config import LlamaConfig, RopeScaling

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ORIGINAL = "original_max_position_embeddings"
LLAMA3: dict = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 8192}


def parse(**changes):
    return LlamaConfig.from_dict(TINY | changes)


def random_shape(seed: int) -> dict:
    draw = random.Random(seed)
    kv_heads = draw.choice([1, 2, 3, 5])
    return {
        "vocab_size": draw.randrange(50, 999),
        "intermediate_size": draw.randrange(32, 400),
        "num_hidden_layers": draw.randrange(1, 5),
        "num_attention_heads": kv_heads * draw.choice([1, 2, 4]),
        "num_key_value_heads": kv_heads,
        "hidden_size": 160 * kv_heads,
        "head_dim": draw.choice([None, 16, 48, 96, 128]),
        "max_position_embeddings": draw.randrange(64, 9999),
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "attention_bias": draw.random() < 0.5,
        "mlp_bias": draw.random() < 0.5,
        "tie_word_embeddings": draw.random() < 0.5,
        "bos_token_id": draw.choice([None, 0, 7]),
        "eos_token_id": draw.choice([3, [4, 5], None]),
    }


def assert_same(ours: LlamaConfig, theirs: transformers.LlamaConfig):
    for name in random_shape(0):
        if name != "eos_token_id":
            assert getattr(ours, name) == getattr(theirs, name), name
    eos = theirs.eos_token_id
    assert ours.eos_token_ids == (() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,))
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_transformers_on_its_own_files(seed, tmp_path):
    """Catches head_dim taken for hidden/heads, and theta read from its old key only."""
    theta = random.Random(seed).choice([1e4, 5e5, 123456])
    theirs = transformers.LlamaConfig(**random_shape(seed), rope_parameters={"rope_theta": theta})
    theirs.architectures = ["LlamaForCausalLM"]
    theirs.save_pretrained(tmp_path)
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())
    assert_same(LlamaConfig.from_folder(tmp_path), theirs)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_transformers_on_old_files(seed, tmp_path):
    """The form before transformers 5: ``rope_theta`` at the top. Catches a lost theta."""
    values = TINY | random_shape(seed) | {"rope_theta": 250000.0}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert_same(LlamaConfig.from_folder(tmp_path), transformers.LlamaConfig.from_pretrained(tmp_path))


def test_defaults_are_transformers():
    """Catches key-value heads defaulting to 1 and other invented defaults."""
    values = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    theirs = transformers.LlamaConfig(**values)
    assert_same(LlamaConfig.from_dict(values), theirs)
    assert LlamaConfig.from_dict(values).num_key_value_heads == 4


@pytest.mark.parametrize(
    ("changes", "scaling", "theta"),
    [
        ({"rope_scaling": None, "rope_theta": 7e3}, None, 7e3),
        ({"rope_scaling": {"rope_type": "default"}}, None, 1e4),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, RopeScaling("linear", 4.0), 1e4),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9e3}},
            ("linear", 2.0),
            9e3,
        ),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5}, "llama3", 5e5),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3, "rope_theta": 5e5}}, "llama3", 5e5),
        # the old key stands for all of the new one
        (
            {"rope_scaling": {"type": "linear", "factor": 3}, "rope_parameters": {"rope_theta": 8e3}},
            ("linear", 3.0),
            1e4,
        ),
        (
            # beside the scaling it goes first
            {"rope_scaling": {"type": "yarn", "factor": 2} | {ORIGINAL: 32}, ORIGINAL: 64},
            RopeScaling("yarn", 2.0, original_max_position_embeddings=64, attention_factor=0.1 * math.log(2) + 1),
            1e4,
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 4}},
            RopeScaling("dynamic", 4.0, original_max_position_embeddings=2048),
            1e4,
        ),
        # a null is none, and of two names of the type the new one counts
        (
            {"rope_scaling": None, "rope_parameters": {"type": "linear", "factor": 2, "rope_theta": 9e3}},
            ("linear", 2.0),
            9e3,
        ),
        ({"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 4}}, ("linear", 4.0), 1e4),
        ({"rope_theta": 6e3, "rope_parameters": {"rope_type": "default", "rope_theta": 8e3}}, None, 8e3),
    ],
)
def test_rope_forms(changes, scaling, theta):
    """Catches the old ``type`` key overlooked, and the wrong one of two thetas."""
    if scaling == "llama3":
        scaling = RopeScaling("llama3", *LLAMA3.values())
    elif isinstance(scaling, tuple):
        scaling = RopeScaling(*scaling)
    config = parse(**changes)
    assert (config.rope_scaling, config.rope_theta) == (scaling, theta)
    theirs = transformers.LlamaConfig(**TINY | json.loads(json.dumps(changes)))
    assert theirs.rope_parameters["rope_theta"] == theta


@pytest.mark.parametrize(
    ("generation", "eos"),
    [({"eos_token_id": [7, 8]}, (7, 8)), ({"eos_token_id": 9}, (9,)), ({}, (3,)), (None, (3,))],
)
def test_generation_config_wins_for_eos(generation, eos, tmp_path):
    """Llama 3 instruct ends turns with an id that only generation_config.json names: without it, no stop."""
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"eos_token_id": 3}))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert LlamaConfig.from_folder(tmp_path).eos_token_ids == eos


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mixtral"},
        {"model_type": ["llama"]},
        {"model_type": None},
        {"architectures": ["MistralForCausalLM"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}},
        {"rope_scaling": {"rope_type": ["linear"]}},
        {"rope_scaling": {"type": "yarn", "factor": -4.0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 2}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": 1}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0}},
        {"rope_scaling": {"type": "dynamic", "factor": 0.5}},
        {"rope_scaling": {"type": "dynamic"}},
        {"max_position_embeddings": 2**20, "rope_scaling": {"type": "dynamic", "factor": 8}},
        {"rope_scaling": "linear"},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "pytriton_llama", "bits": 4, "group_size": 40}},
        {"quantization_config": {"quant_method": "pytriton_llama", "bits": 4, "group_size": 32}, "head_dim": 18},
        {"quantization_config": "int8"},
        {"sliding_window": 4096},
        {"partial_rotary_factor": 0.5},
        {"rope_interleaved": True},
        {"num_local_experts": 8},
        {"no_rope_layers": [1, 0]},
        {"compression_config": {"format": "pack-quantized"}},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"num_experts": 8},
        {"n_routed_experts": 8},
        {"use_qk_norm": True},
        {"qk_norm": True},
        {"attn_logit_softcapping": 50.0},
        {"final_logit_softcapping": 30.0},
        {"logit_scale": 0.5},
        {"attention_multiplier": 0.1},
        {"residual_multiplier": 0.2},
        {"embedding_multiplier": 12.0},
        {"logits_scaling": 0},
        {"head_dim": 17},
        {"head_dim": 14},
        {"head_dim": 258},
        {"hidden_size": 66},
        {"num_key_value_heads": 3},
        {"hidden_size": 0},
        {"hidden_size": -64},
        {"hidden_size": "64"},
        {"hidden_size": 64.0},
        {"hidden_size": True},
        {"vocab_size": None},
        {"num_hidden_layers": True},
        {"num_hidden_layers": 2**40},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**5000},
        {"max_position_embeddings": 2**31},
        {"rope_theta": math.nan},
        {"rope_theta": -1.0},
        {"rope_theta": 10**400},
        {"rope_theta": 1},
        {"rms_norm_eps": 0},
        {"rms_norm_eps": True},
        {"rms_norm_eps": math.inf},
        {"rms_norm_eps": "1e-5"},
        {"attention_bias": 1},
        {"tie_word_embeddings": "false"},
        {"eos_token_id": "</s>"},
        {"eos_token_id": [2, -1]},
        {"eos_token_id": [2, True]},
        {"eos_token_id": [2, 96]},
        {"bos_token_id": [1]},
        {"bos_token_id": 96},
    ],
    ids=lambda changes: str(next(iter(changes))),
)
def test_refuses_by_name(changes):
    """A key that is ignored instead gives a model that runs and is wrong."""
    key = next(iter(changes))
    with pytest.raises(LlamaError, match=f"^config: .*{key}") as caught:
        parse(**changes)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_mistral_is_read_as_transformers_reads_it():
    """Catches Llama's defaults in a Mistral, whose file may lack the window, and a null window taken for none given."""
    for changes in ({}, {"sliding_window": None}, {"sliding_window": 7}):
        values = {key: value for key, value in TINY.items() if key not in ("num_key_value_heads", "architectures")}
        values |= {"model_type": "mistral", "num_attention_heads": 16, "head_dim": 16} | changes
        ours, theirs = LlamaConfig.from_dict(values), transformers.MistralConfig(**values)
        for name in ("sliding_window", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"):
            assert getattr(ours, name) == getattr(theirs, name), name


def test_a_long_value_is_cut():
    """Catches a screen full of what a file has in a number's place."""
    with pytest.raises(LlamaError, match=r"hidden_size.*\.\.\.$") as caught:
        parse(hidden_size="7" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_refuses_a_missing_size(key):
    """Catches a default for what no default can be right."""
    with pytest.raises(LlamaError, match=f"{key} must be a positive integer, got nothing"):
        LlamaConfig.from_dict({name: value for name, value in TINY.items() if name != key})


def test_harmless_keys_are_ignored():
    """Real files are full of them; and neutral values of foreign keys are no reason to refuse."""
    assert parse(_name="x", pretraining_tp=1, use_cache=True, sliding_window=None, logit_scale=1.0) == parse()


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", '"llama"', "[" * 100_000, "\x00", '{"a": ' + "9" * 5000 + "}", '{"a": 1, "a": 2}']
)
def test_refuses_what_is_no_json_object(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(LlamaError, match=r"config\.json"):
        LlamaConfig.from_folder(tmp_path)


def test_refuses_bytes_and_nothing(tmp_path):
    """Catches a UnicodeDecodeError or FileNotFoundError that reaches the user as a traceback."""
    with pytest.raises(LlamaError, match="cannot be read"):
        LlamaConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LlamaError, match="not valid JSON"):
        LlamaConfig.from_folder(tmp_path)
