"""Exercises of notebook 11."""

from collections.abc import Iterator
from types import SimpleNamespace

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise
from pytriton_llama.course.inputs import Draw, device


@exercise("11.a", "perplexity")
def perplexity(answer: Answer) -> Iterator[tuple[bool, str]]:
    """logits (length, vocab_size) float32, token_ids a list of length integers; a number."""
    draw = Draw(110)

    def of(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
        likely = logits.double().log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        return (-likely.mean()).exp().float()

    def got(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
        return torch.as_tensor(answer(logits, ids), dtype=torch.float32, device=device)

    same = torch.zeros(5, 8, device=device)
    yield agrees(got(same, [1, 2, 3, 4, 5]), of(same, [1, 2, 3, 4, 5])), "8 tokens, all alike: as unsure as a die of 8"
    logits, ids = draw(6, 10, scale=2.0), [3, 1, 4, 1, 5, 9]
    shifted = logits.double().log_softmax(-1)[range(6), ids]
    result = got(logits, ids)
    yield not agrees(result, (-shifted.mean()).exp().float()), "row i says what follows token i, not what token i is"
    wrong = (-logits.double().log_softmax(-1)[range(5), ids[1:]].sum() / 6).exp().float()
    yield not agrees(result, wrong), "nothing predicts the first token: it is no part of the mean"
    yield not agrees(result, of(logits, ids).log()), "that is the mean negative log-likelihood; perplexity is its exp"
    yield agrees(result, of(logits, ids)), "exp of the mean of −log p, of each token but the first"
    large = draw(6, 10, scale=200.0)
    yield agrees(got(large, ids[:6]).log(), of(large, ids[:6]).log()), "logits of ±200: exp overflows; 01 knew better"


@exercise("11.b", "a draft, checked in one pass")
def accept(answer: Answer) -> Iterator[tuple[bool, str]]:
    """draft, a list of n token ids; logits (n + 1, vocab_size): row i scores what follows draft[:i]. A list of ids."""

    def logits(*likeliest: int) -> torch.Tensor:
        scores = torch.zeros(len(likeliest), 10, device=device)
        scores[range(len(likeliest)), likeliest] = 1.0
        return scores

    def got(draft: list[int], *likeliest: int) -> list[int]:
        return [int(i) for i in answer(draft, logits(*likeliest))]

    yield got([], 7) == [7], "no draft: the model's own token, so that a step never gains less than one"
    result = got([3, 1], 3, 1, 4)
    yield result != [3, 1], "all of the draft was right: what follows it is there as well, in the last row"
    yield result == [3, 1, 4], "the draft 3, 1, and the model says 3, 1, 4"
    result = got([3, 5, 4], 3, 1, 4, 6)
    yield 5 not in result, "the model does not say 5"
    yield result != [3], "in the wrong token's place comes the model's own: row 1 has seen nothing of the mistake"
    yield result[2:] != [4] and 6 not in result, "rows after a mistake have seen it: what they say is of another text"
    yield result == [3, 1], "the draft 3, 5, 4, and the model says 3, 1"
    yield got([2, 3], 1, 3, 4) == [1], "wrong at once: one token, the model's"


@exercise("11.c", "the room of a cache")
def positions(answer: Answer) -> Iterator[tuple[bool, str]]:
    """config, free bytes, bytes of a number, sequences at once: how many positions each may have, an integer."""

    def config(**sizes: int) -> SimpleNamespace:
        plain = dict(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, head_dim=8)
        return SimpleNamespace(**plain | {"hidden_size": 32, "max_position_embeddings": 1000} | sizes)

    got = answer(config(), 5120, 2, 1)
    yield got != 80, "keys and values: twice as much"
    yield got == 40, "one layer, 4 heads of 8 numbers of 2 bytes: 128 bytes a position"
    yield answer(config(num_hidden_layers=2), 5120, 2, 1) == 20, "each layer has a cache"
    yield answer(config(num_key_value_heads=1), 5120, 2, 1) == 160, "a cache has key/value heads alone"
    yield answer(config(head_dim=16), 5120, 2, 1) == 20, "head_dim is the config's, whatever hidden_size is"
    yield answer(config(), 5120, 4, 1) == 20, "4 bytes a number"
    yield answer(config(), 5120, 2, 4) == 10, "each of 4 sequences has keys and values of its own"
    yield answer(config(), 5000, 2, 1) == 39, "half a position is none"
    yield answer(config(), 10**9, 2, 1) == 1000, "the model knows no angle beyond max_position_embeddings"
