"""Steps as CUDA graphs and without, requests side by side and one after the other."""

import dataclasses
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers

from pytriton_llama import Llama, reference
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import batch, memory, model
from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.prompts import _padded
from tests.llama.tiny import TINY

SHAPE = TINY | {"vocab_size": 301, "max_position_embeddings": 256, "eos_token_id": 7}
PROMPTS = [[5, 6, 8], list(range(20, 60)), [100]]
DRAWS = {
    "greedy": {},
    "random": {"temperature": 1.0, "seed": 3},
    "restricted": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "seed": 5},
    "penalized": {"repetition_penalty": 1.4, "logprobs": True},
    "everything": {"temperature": 1.2, "top_k": 50, "repetition_penalty": 1.2, "seed": 8, "logprobs": True},
}


@pytest.fixture
def llama() -> Llama:
    llama = Llama.from_config(SHAPE, dtype="float32", seed=1)
    for layer in llama.model.layers:  # random weights as they come hardly attend: a wrong cache would not show
        layer.qkv_proj.mul_(12)
    return llama


@pytest.mark.parametrize("options", DRAWS.values(), ids=DRAWS)
def test_with_and_without_graphs_and_torch(llama, options):
    """Catches an argument that the capture froze, a step that is counted twice where it is captured, and a draw that
    differs between the kernels and their oracle."""
    made = llama.generate(PROMPTS, max_new_tokens=16, **options)
    again = llama.generate(PROMPTS, max_new_tokens=16, **options)  # with the graphs that the first has left
    assert again == made
    llama.engine.graphs = False
    assert_alike(llama.generate(PROMPTS, max_new_tokens=16, **options), made)
    llama.model.ops = reference
    assert_alike(llama.generate(PROMPTS, max_new_tokens=16, **options), made)


def assert_alike(ours, expected) -> None:
    """The same tokens for the same reasons, as likely to the last digits."""
    for one, other in zip(ours, expected, strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert (one.logprobs is None) == (other.logprobs is None)
        assert one.logprobs is None or one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [*(DRAWS[name] for name in ("random", "restricted", "everything")), DRAWS["random"] | {"repetition_penalty": 50.0}],
)
def test_a_seed_is_a_sequences_own(llama, options):
    """Catches noise that depends on the batch or on a sequence's place in it, and a penalty for another's tokens."""
    options = options | {"max_new_tokens": 12}
    together = llama.generate(PROMPTS, **options)
    assert together[0].token_ids != llama.generate(PROMPTS[0], **(options | {"seed": 99})).token_ids
    for i, prompt in enumerate(PROMPTS):
        assert_alike([llama.generate(prompt, **(options | {"seed": options["seed"] + i}))], [together[i]])


def test_nothing_is_left_of_other_options(llama):
    """Catches tokens of an earlier request that are still seen, and a penalty, stop tokens or a request for
    log-probabilities that stays."""
    expected = [llama.generate(PROMPTS, max_new_tokens=6, **options) for options in DRAWS.values()]
    for made, options in reversed(list(zip(expected, DRAWS.values(), strict=True))):
        llama.generate(PROMPTS, max_new_tokens=6, stop=[], repetition_penalty=3.0, logprobs=True)
        assert llama.generate(PROMPTS, max_new_tokens=6, **options) == made


@pytest.mark.parametrize("options", [{}, DRAWS["everything"]], ids=["greedy", "everything"])
def test_logprobs_are_the_models_own(llama, options):
    """Catches log-probabilities after penalty, temperature or top-k, of the wrong step, or of the likeliest token."""
    for prompt, made in zip(
        PROMPTS, llama.generate(PROMPTS, max_new_tokens=9, **(options | {"logprobs": True})), strict=True
    ):
        logits = llama.logits(prompt + made.token_ids)[len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(made.token_ids, device=logits.device)[:, None])
        assert made.logprobs == pytest.approx(expected[:, 0].tolist(), abs=1e-4)


def test_eos_or_none(llama):
    """Catches a sequence that goes on after either kind of end, that ends though nothing should stop it, and one that
    takes its neighbour along."""
    free = llama.generate(PROMPTS, max_new_tokens=40, temperature=1.5, seed=2, stop=[])
    assert [g.finish_reason for g in free] == ["length"] * 3
    eos = free[0].token_ids[10], free[1].token_ids[20]
    llama.model.config = dataclasses.replace(llama.config, eos_token_ids=eos)
    llama.engine.release()
    stopped = llama.generate(PROMPTS, max_new_tokens=40, temperature=1.5, seed=2)
    for one, whole in zip(stopped, free, strict=True):
        ends = [i for i, token in enumerate(whole.token_ids) if token in eos]
        assert one.token_ids == whole.token_ids[: ends[0] if ends else None]
        assert one.finish_reason == ("stop" if ends else "length")
    just = len(stopped[0].token_ids) + 1  # the last token that there is room for ends the text
    assert llama.generate(PROMPTS[0], max_new_tokens=just, temperature=1.5, seed=2) == stopped[0]
    assert llama.generate(PROMPTS, max_new_tokens=40, temperature=1.5, seed=2, stop=[]) == free


def test_a_request_that_does_not_fit(llama, monkeypatch):
    """Catches a traceback or a killed process instead of a line that says what fits, rounding up that refuses what
    would fit, idle rooms that are in the way, and an engine that is lost afterwards."""
    expected = llama.generate(PROMPTS[0], max_new_tokens=20)
    # 2 layers of 2 key-value heads of 16 numbers: 512 bytes a token.
    held = [512 * sum(b.size * b.cache.max_length for b in llama.engine._idle.values())]
    assert held == [512 * 32]

    def free_bytes(device):
        return 512 * 100 - sum(512 * b.size * b.cache.max_length for b in llama.engine._idle.values())

    monkeypatch.setattr(memory, "free_bytes", free_bytes)
    with pytest.raises(LlamaError, match=r"1 × 122 tokens .* does not fit .* 1 × 100 would$"):
        llama.generate(PROMPTS[0], max_new_tokens=120)
    with pytest.raises(LlamaError, match=r"3 × 43 tokens .* 3 × 33 would$"):
        llama.generate(PROMPTS, max_new_tokens=4)
    assert len(llama.generate(PROMPTS[0], max_new_tokens=98).token_ids) == 98  # 128 would not have fitted
    assert len(llama.generate([PROMPTS[0]] * 3, max_new_tokens=30)) == 3  # nor 4 × 32
    assert llama.generate(PROMPTS[0], max_new_tokens=20) == expected


def test_free_memory_of_a_cpu(monkeypatch):
    """Catches KiB taken for bytes, and what is free instead of what can be had."""
    meminfo = "MemTotal:  90 kB\nMemFree:  20 kB\nMemAvailable:   70 kB\nBuffers:  30 kB\n"
    monkeypatch.setattr(memory.Path, "read_text", lambda *_, **__: meminfo)
    assert memory.free_bytes(torch.device("cpu")) == 70 * 1024


def test_full_memory_is_one_line(llama, monkeypatch):
    """Catches torch's traceback where the memory fills up on the way, rooms that go on taking it, and an engine that is
    lost afterwards."""
    expected = llama.generate(PROMPTS, max_new_tokens=6)
    llama.generate(PROMPTS[0], max_new_tokens=1)  # a room beside the others'
    llama.engine.graphs = False  # in a graph there is no call
    draw, drawn = llama.model.ops.next_token, []

    def full(*arguments):
        if len(drawn) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore of that.")
        drawn.append(draw(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(llama.model.ops, "next_token", full)
        with pytest.raises(LlamaError, match=r"^the GPU's memory is full: CUDA out of memory\. Tried .* GiB\.$"):
            llama.generate(PROMPTS, max_new_tokens=6)
    assert not llama.engine._idle
    assert llama.generate(PROMPTS, max_new_tokens=6) == expected


def test_ctrl_c_waits_for_the_step(llama, monkeypatch):
    """Catches an interpreted kernel that is left half-way: its counters would spoil every later draw."""
    llama.engine.graphs = False  # in a graph there is no call between two kernels
    expected = llama.generate(PROMPTS, max_new_tokens=6)
    draw, drawn = llama.model.ops.next_token, []

    def press(*arguments):
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        draw(*arguments)
        drawn.append(True)

    with monkeypatch.context() as patch:
        patch.setattr(llama.model.ops, "next_token", press)
        with pytest.raises(KeyboardInterrupt):
            llama.generate(PROMPTS, max_new_tokens=6)
    assert len(drawn) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert llama.generate(PROMPTS, max_new_tokens=6) == expected


def test_threads_take_turns(llama, monkeypatch):
    """Catches two threads in a step, and so in the interpreter or in a capture, at a time."""
    step, inside, most = batch.Batch.step, [], []

    def watched(self) -> None:
        inside.append(None)
        most.append(len(inside))
        step(self)
        inside.pop()

    monkeypatch.setattr(batch.Batch, "step", watched)
    jobs = [{"seed": seed, "temperature": 1.0, "max_new_tokens": 12} for seed in range(6)]
    expected = [llama.generate(PROMPTS, **job) for job in jobs]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda job: llama.generate(PROMPTS, **job), jobs)) == expected
    assert max(most) == 1


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
    prompts = [PROMPTS[2], PROMPTS[0]]  # the second is the longest
    expected = llama.generate(prompts, max_new_tokens=60)
    llama.engine.release()
    monkeypatch.setattr(batch, "SHORT", 16)
    assert llama.generate(prompts, max_new_tokens=60) == expected
    llama.engine.graphs, llama.model.ops = False, reference  # a kernel would read on past the view's end
    assert llama.generate(prompts, max_new_tokens=60) == expected


def test_a_context_that_is_no_power_of_two():
    """Catches a room rounded up beyond the positions that have angles, a prompt refused that just fills the context, an
    answer that goes on past it, and a list of one that is no list."""
    llama = Llama.from_config(SHAPE | {"max_position_embeddings": 100, "eos_token_id": []}, dtype="float32")
    (made,) = llama.generate([[5] * 98], max_new_tokens=50)
    assert len(made.token_ids) == 3 and llama.engine._idle[1].cache.max_length == 100
    assert len(llama.generate([5] * 100, max_new_tokens=50).token_ids) == 1


def test_what_is_told_is_float32():
    """Catches logits, log-probabilities and a text's likelihoods rounded to the type of a model of 16 bits, and logits
    that a penalty or a restriction gives another type than the draw takes."""
    llama = Llama.from_config(SHAPE, dtype="float16")
    options = {"max_new_tokens": 5, "temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "logprobs": True}
    told = torch.tensor(llama.generate(PROMPTS[0], **options).logprobs)
    likelihoods = llama.model.log_likelihoods(torch.tensor(PROMPTS[0], device=llama.model.device)).cpu()
    for found in (told, likelihoods, llama.logits(PROMPTS[0])):
        assert found.dtype == torch.float32
    for found in (told, likelihoods):
        assert (found != found.half()).all()


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


def test_a_full_cache_is_not_passed(llama):
    """Catches a token beyond the cache's end: it would be another sequence's first."""
    cache = KVCache(llama.config, 2, 4, llama.model.device, torch.float32)
    for sequence, count in enumerate((4, 2)):
        llama.model.prefill(torch.arange(count).to(llama.model.device), cache, sequence)
    before = cache.keys[:, 1, :, :2].clone()
    llama.model.decode(torch.tensor([5, 6], device=llama.model.device), cache)
    assert cache.lengths.tolist() == [4, 3] and torch.equal(cache.keys[:, 1, :, :2], before)


def test_padded_lengths_are_few():
    """Catches a prompt that is cut, one that is padded by much, and a graph for every length."""
    lengths = {length: _padded(length) for length in range(1, model.CHUNK + 1)}
    assert all(length <= padded < length + max(64, length / 4) for length, padded in lengths.items())
    assert len(set(lengths.values())) <= 20


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
    llama = Llama.from_config(SHAPE | {"max_position_embeddings": 16384, "eos_token_id": []}, dtype="bfloat16")
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


@pytest.mark.gpu
@pytest.mark.slow
def test_memory_is_weights_and_cache():
    """A long prompt twice (the second is captured), then a batch: what torch holds at its peak, unused parts and all,
    is at most a tenth more than weights and cache. Catches weights kept twice, logits of a whole prompt, two caches."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    llama = Llama.from_config("llama-3.1-8b", dtype="bfloat16")
    prompt = torch.randint(0, 128000, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    for prompts in (prompt, prompt, [prompt] * 4):
        llama.generate(prompts, max_new_tokens=8)
    parts = [t for layer in llama.model.layers for t in vars(layer).values() if t is not None]
    weights = sum(t.nbytes for t in (*parts, llama.model.embed_tokens, llama.model.lm_head, llama.model.norm))
    cache = sum(size * 2048 * memory.bytes_per_token(llama.config, torch.bfloat16) for size in (1, 4))
    peak = torch.cuda.max_memory_reserved() - held
    print(f"{peak / (weights + cache) - 1:.1%} above {(weights + cache) / 1e9:.2f} GB")
    assert peak <= 1.1 * (weights + cache)
