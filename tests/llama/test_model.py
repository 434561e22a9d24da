"""The model against transformers' ``LlamaForCausalLM`` and ``MistralForCausalLM`` with the same weights, in float32."""

import pytest
import torch
import transformers

from pytriton_llama import Llama, kernels, reference
from pytriton_llama.llama import checkpoint
from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.runtime import interpreted

DEVICE = torch.device("cpu" if interpreted() else "cuda")
IMPLEMENTATIONS = {"triton": kernels, "torch": reference}
BASE = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 144,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "eos_token_id": None,
    # Larger than usual, so that attention is far from uniform and a wrong position shows.
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"type": "yarn", "original_max_position_embeddings": 16}
# Each would pass with the fault it names if it had the base's value.
CONFIGS = {
    "MHA": {},  # a group taken as a constant
    "GQA 3:1": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 96},  # heads dealt round robin
    "GQA 8:1": {"num_attention_heads": 8, "num_key_value_heads": 1, "hidden_size": 128},  # k's stride taken for q's
    "tied": {"tie_word_embeddings": True},  # lm_head not found
    "head_dim": {"head_dim": 32},  # head_dim = hidden / heads
    "attention bias": {"attention_bias": True},  # biases left at zero, or not joined as q, k, v
    "MLP bias": {"mlp_bias": True},  # ignored
    "eps": {"rms_norm_eps": 0.5},  # a kernel's default taken, in a prompt or in a step
    "theta": {"rope_theta": 500.0},  # 10000 taken for granted
    "theta in rope_parameters": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}
    },  # read from one place
    "linear": {"rope_scaling": {"type": "linear", "factor": 3.0}},  # the old key of the type
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}},  # scaling ignored, or without its ramp
    "yarn": {"rope_scaling": {**YARN, "factor": 8.0}},  # the attention factor left out
    "dynamic": {  # tokens beyond the original context turned as those within
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
        "max_position_embeddings": 24,
    },
    "sliding window": {"model_type": "mistral", "sliding_window": 7},  # ignored, or off by one
    "wide window": {"model_type": "mistral", "sliding_window": 32},  # ignored in decoding
    "no window": {"model_type": "mistral", "sliding_window": None},  # Mistral's default taken for null
}


@pytest.fixture(params=CONFIGS, ids=str)
def pair(request, tmp_path):
    """transformers' model with random weights, and the folder it was saved to, with its config as given here."""
    values = {**BASE, **CONFIGS[request.param]}
    torch.manual_seed(len(request.param))
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    for name, parameter in theirs.named_parameters():  # transformers starts biases at 0 and norms at 1
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    theirs.save_pretrained(tmp_path)
    return theirs.to(DEVICE), tmp_path


def load(folder, ops):
    config = LlamaConfig.from_folder(folder)
    return LlamaModel(config, checkpoint.load(folder, config, DEVICE, torch.float32), ops)


def continue_greedily(theirs, prompt, count) -> list[int]:
    """transformers' own next tokens. The mask is given: without it, ids that equal the padding's would be hidden."""
    out = theirs.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("ops", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_prefill_and_greedy_tokens(pair, ops):
    """Logits within 1e-4; 24 greedy tokens equal: the cache is written and read where it should be."""
    theirs, folder = pair
    ours = load(folder, ops)
    prompt = torch.randint(0, ours.config.vocab_size, (21,), device=DEVICE)
    with torch.no_grad():
        expected = theirs(prompt[None]).logits[0]
    expected_tokens = continue_greedily(theirs, prompt, 24)
    assert (ours.logits(prompt) - expected).abs().max() < 1e-4

    cache = KVCache(ours.config, 1, 21 + 24, DEVICE, torch.float32)
    cache.keys.fill_(float("nan")), cache.values.fill_(float("nan"))
    logits = ours.prefill(prompt, cache, 0)[None]
    assert (logits[0] - expected[-1]).abs().max() < 1e-4
    tokens = []
    for _ in range(24):
        token = logits.argmax(-1)
        tokens.append(int(token))
        logits = ours.decode(token, cache)
    assert tokens == expected_tokens


@pytest.fixture
def tiny(tmp_path):
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**BASE)).save_pretrained(tmp_path)
    return Llama(load(tmp_path, kernels), None)


def test_a_batch_equals_each_alone(tiny):
    """Catches padding that is attended to, one position used for all sequences, a cache row written twice."""
    prompts = [torch.randint(0, 257, (n,)).tolist() for n in (1, 30, 7)]
    together = tiny.generate(prompts, max_new_tokens=8)
    assert [g.token_ids for g in together] == [tiny.generate(p, max_new_tokens=8).token_ids for p in prompts]


def test_a_full_context_ends_the_text(tiny):
    """Catches a cache written past its end: what fits is continued once more, and its neighbour is not disturbed."""
    context = tiny.config.max_position_embeddings
    prompts = [torch.randint(0, 257, (n,)).tolist() for n in (context - 2, context, 5)]
    full, fuller, short = tiny.generate(prompts, max_new_tokens=10)
    assert [len(g.token_ids) for g in (full, fuller, short)] == [3, 1, 10]
    assert full.finish_reason == fuller.finish_reason == "length"
    assert short.token_ids == tiny.generate(prompts[2], max_new_tokens=10).token_ids


PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "def fibonacci(n):\n",
    "The three laws of robotics are 1.",
    "Ποῖος εἶ; 你好, 🦙!",
]


@pytest.fixture(scope="module")
def their_smollm2(smollm2):
    return transformers.LlamaForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval().to(DEVICE)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kernels", ["torch", pytest.param("triton", marks=pytest.mark.gpu)])
def test_smollm2_says_what_transformers_says(kernels, prompt, smollm2, their_smollm2):
    """Real weights: catches what random ones hide, such as rope layout after the GGUF conversion. 32 tokens."""
    llama = Llama.from_pretrained(smollm2, dtype="float32", kernels=kernels)
    ids = llama.tokenizer.encode(prompt)
    expected = continue_greedily(their_smollm2, torch.tensor(ids, device=DEVICE), 32)
    if llama.config.eos_token_ids[0] in expected:
        expected = expected[: expected.index(llama.config.eos_token_ids[0])]
    assert llama.generate(prompt, max_new_tokens=32).token_ids == expected


def test_smollm2_interpreted(smollm2, their_smollm2):
    """The kernels themselves, wherever they run, on real weights: 4 tokens."""
    llama = Llama.from_pretrained(smollm2, dtype="float32", kernels="triton")
    ids = llama.tokenizer.encode(PROMPTS[0])
    expected = continue_greedily(their_smollm2, torch.tensor(ids, device=DEVICE), 4)
    assert llama.generate(PROMPTS[0], max_new_tokens=4).token_ids == expected


def test_bytes_per_token(smollm2):
    """Catches the embedding counted twice (it is tied) or q, k, v counted both joined and apart."""
    llama = Llama.from_pretrained(smollm2, dtype="float32", kernels="torch")
    shapes = checkpoint.expected_shapes(llama.config).values()
    assert llama.model.bytes_per_token == 4 * sum(torch.Size(shape).numel() for shape in shapes)
