"""Steps as CUDA graphs and without, requests side by side and one after the other."""

import dataclasses

import pytest
import torch
import transformers

from pytriton_llama import Llama, reference
from pytriton_llama.llama import batch, model
from pytriton_llama.llama.cache import KVCache

TINY = {
    "model_type": "llama",
    "vocab_size": 301,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 7,
}
PROMPTS = [[5, 6, 8], list(range(20, 60)), [100]]
DRAWS = [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 5}]


@pytest.fixture
def llama() -> Llama:
    llama = Llama.from_config(TINY, dtype="float32", seed=1)
    for layer in llama.model.layers:  # random weights as they come hardly attend: a wrong cache would not show
        layer.qkv_proj.mul_(12)
    return llama


@pytest.mark.parametrize("options", DRAWS, ids=["greedy", "random", "restricted"])
def test_with_and_without_graphs_and_torch(llama, options):
    """Catches an argument that the capture froze, a step that is counted twice where it is captured, and a draw that
    differs between the kernels and their oracle."""
    made = llama.generate(PROMPTS, max_new_tokens=30, **options)
    again = llama.generate(PROMPTS, max_new_tokens=30, **options)  # with the graphs that the first has left
    llama.engine.graphs = False
    assert made == again == llama.generate(PROMPTS, max_new_tokens=30, **options)
    llama.model.ops = reference
    assert made == llama.generate(PROMPTS, max_new_tokens=30, **options)


@pytest.mark.parametrize("options", DRAWS[1:], ids=["random", "restricted"])
def test_a_seed_is_a_sequences_own(llama, options):
    """Catches noise that depends on the batch or on a sequence's place in it."""
    options = options | {"max_new_tokens": 12}
    together = llama.generate(PROMPTS, **options)
    assert together[0].token_ids != llama.generate(PROMPTS[0], **(options | {"seed": 99})).token_ids
    for i, prompt in enumerate(PROMPTS):
        assert llama.generate(prompt, **(options | {"seed": options["seed"] + i})) == together[i]


def test_streams_side_by_side(llama):
    """Catches a cache, or tokens on their way to the host, that two requests share."""
    expected = [llama.generate(p, max_new_tokens=20).token_ids for p in PROMPTS]
    streams = [llama.stream(p, max_new_tokens=20) for p in PROMPTS]
    found: list[list[int]] = [[] for _ in PROMPTS]
    for _ in range(20):
        for stream, tokens in zip(streams, found, strict=True):
            tokens.extend(token for token in [next(stream, None)] if token is not None)
    assert found == expected


def test_room_is_kept_and_grows(llama):
    """Catches a cache per request, and one that a longer request writes past."""
    short = llama.generate(PROMPTS[0], max_new_tokens=5)
    kept = llama.engine._idle[1]
    assert llama.generate(PROMPTS[0], max_new_tokens=5) == short and llama.engine._idle[1] is kept
    long = llama.generate(PROMPTS[0], max_new_tokens=100)
    assert llama.engine._idle[1].cache.max_length >= 102
    assert long.token_ids[:5] == short.token_ids


def test_a_length_that_takes_another_tile(llama, monkeypatch):
    """Catches a view of the cache that ends before the sequence does."""
    expected = llama.generate([PROMPTS[0], PROMPTS[2]], max_new_tokens=60)
    llama.engine.release()
    monkeypatch.setattr(batch, "SHORT", 16)
    assert llama.generate([PROMPTS[0], PROMPTS[2]], max_new_tokens=60) == expected


@pytest.mark.parametrize("chunk", [1, 16, 25])
def test_prefill_in_chunks(llama, chunk, monkeypatch):
    """Catches a chunk at another's positions, or one that does not see what came before it."""
    device, ids = llama.model.device, torch.arange(20, 60)

    def prefill() -> tuple[torch.Tensor, torch.Tensor]:
        cache = KVCache(llama.config, 2, 64, device, torch.float32)
        cache.keys.fill_(float("nan")), cache.values.fill_(float("nan"))
        return llama.model.prefill(ids.to(device), cache, 1), cache.values[:, 1, :, :40]

    logits, values = prefill()
    monkeypatch.setattr(model, "CHUNK", chunk)
    chunked_logits, chunked_values = prefill()
    torch.testing.assert_close(chunked_logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chunked_values, values, rtol=1e-5, atol=1e-5)


def test_padding_leaves_no_trace(llama):
    """Catches logits of the padding, and a prompt that sees it."""
    ids, device = torch.arange(20, 60), llama.model.device
    caches = [KVCache(llama.config, 1, 64, device, torch.float32) for _ in range(2)]
    expected = llama.model.prefill(ids.to(device), caches[0], 0)
    padded = torch.cat((ids, torch.full((24,), 3))).to(device)
    logits = llama.model.prefill(padded, caches[1], 0, torch.tensor([39], device=device))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(caches[1].keys[..., :40, :], caches[0].keys[..., :40, :], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.slow
def test_eight_thousand_tokens_of_smollm2(smollm2):
    """Greedy in float32, one graph a token; then the whole text through transformers at once: every token must be its
    likeliest, or as likely to the last digits. Catches what goes wrong only late: positions, splits, tiles."""
    llama = Llama.from_pretrained(smollm2, dtype="float32")
    llama.model.config = dataclasses.replace(llama.config, eos_token_ids=())  # it must not end
    ids = llama.tokenizer.encode("Once upon a time")
    made = llama.generate(ids, max_new_tokens=8000).token_ids
    theirs = transformers.LlamaForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval().cuda()
    with torch.no_grad():
        logits = theirs(torch.tensor([ids + made], device="cuda")).logits[0, len(ids) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(made, device="cuda")[:, None])[:, 0]
    assert len(made) == 8000 and (logits.amax(1) - chosen).max() < 1e-3


@pytest.mark.gpu
@pytest.mark.slow
def test_ten_thousand_tokens_and_no_more_memory():
    """Catches memory that grows by the step, and NaN once the context is long."""
    llama = Llama.from_config(TINY | {"max_position_embeddings": 16384, "eos_token_id": []}, dtype="bfloat16")
    stream = llama.stream([5], max_new_tokens=10_000)
    for _ in range(100):
        next(stream)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    made = len(list(stream))
    assert made == 9900 and torch.cuda.memory_allocated() <= before
    assert llama.engine._idle[1].x.isfinite().all()
    (batch,) = llama.engine._idle.values()
    assert batch.cache.keys[:, :, :, :10_000].isfinite().all()
