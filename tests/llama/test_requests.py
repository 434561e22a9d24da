"""Many random requests through one engine: each as if it were alone, and nothing left behind."""

import gc
import random
import re

import torch

from pytriton_llama import Llama
from pytriton_llama.llama.batch import Batch
from pytriton_llama.llama.tokenizer import Stream
from pytriton_llama.runtime import interpreted
from tests.llama.tiny import TINY

SHAPE = TINY | {"eos_token_id": [7, 8]}
COUNT = 250 if interpreted() else 1000


class Letters:
    """A stand-in tokenizer: each token is one or two letters of four."""

    def decode(self, ids: list[int]) -> str:
        return "".join("abcd"[i % 4] * (1 + i % 2) for i in ids)

    def stream(self) -> Stream:
        return Stream(self.decode, skipped=())


def make() -> Llama:
    """The oracle without a GPU, where the kernels would take minutes: what is tested here is not theirs."""
    llama = Llama.from_config(SHAPE, dtype="float32", kernels="torch" if interpreted() else "auto", seed=1)
    for layer in llama.model.layers:  # random weights as they come hardly attend: a wrong cache would not show
        layer.qkv_proj.mul_(12)
    llama._tokenizer = Letters()
    return llama


def draw(r: random.Random) -> tuple[list[list[int]], dict]:
    """Prompts and options."""
    prompts = [r.choices(range(97), k=r.randint(1, r.choice((4, 40, 128)))) for _ in range(r.randint(1, 5))]
    options = {"max_new_tokens": r.choice((1, 3, 10, 40)), "seed": r.randrange(2**40)}
    if r.random() < 0.7:
        options |= {"temperature": r.uniform(0.3, 2), "top_k": r.choice((None, 5, 30)), "min_p": r.choice((None, 0.02))}
        options |= {"top_p": r.choice((None, 0.9))}
    stop = r.choice((None, None, [], ["".join(r.choices("abcd", k=r.randint(1, 3))) for _ in range(2)]))
    penalty = r.choice((None, None, 1.3))
    return prompts, options | {"stop": stop, "repetition_penalty": penalty, "logprobs": r.random() < 0.3}


def run(llama: Llama, r: random.Random, alone: Llama) -> None:
    """One request, in one of the ways there are."""
    prompts, options = draw(r)
    if r.random() < 0.4:
        prompts = prompts[:1]
    expected = [alone.generate(p, **options | {"seed": options["seed"] + i}) for i, p in enumerate(prompts)]
    if len(expected) == 1:
        with llama.stream(prompts[0], **options) as stream:
            if r.random() < 0.4:
                given_up = [piece for piece, _ in zip(stream, range(r.randint(1, 5)), strict=False)]
                assert expected[0].text.startswith("".join(given_up))
                return
            assert "".join(stream) == expected[0].text
            made = [stream]
    else:
        made = llama.generate(prompts, **options)
        assert [g.text for g in made] == [g.text for g in expected]
    for one, other in zip(made, expected, strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert (one.logprobs is None) == (other.logprobs is None)
        assert one.logprobs is None or torch.allclose(*map(torch.tensor, (one.logprobs, other.logprobs)), atol=1e-4)


def held() -> tuple[int, int]:
    """Rooms, and bytes of all tensors, that this process has."""
    gc.collect()
    things = gc.get_objects()
    return (
        sum(type(thing) is Batch for thing in things),
        sum(thing.nbytes for thing in things if type(thing) is torch.Tensor),
    )


def resident_mib() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) >> 10


def test_random_requests():
    """Lengths, stops, seeds, streams given up. Catches a neighbour, or an earlier request, that shows in the tokens,
    and memory that requests leave behind."""
    llama, alone = make(), make()
    for seed in range(COUNT):
        run(llama, random.Random(seed), alone)
        if seed == COUNT // 3:  # rooms of all sizes have been made
            before, resident = held(), resident_mib()
    assert held() == before
    assert resident_mib() <= resident + 20
