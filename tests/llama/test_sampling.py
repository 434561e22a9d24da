"""Which tokens may follow, and how likely, against transformers; draws against exact probabilities."""

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pytriton_llama import Llama
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.sampling import Options, Sampling, penalize, restrict


def theirs(logits: torch.Tensor, ids: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities (rows, vocab_size) after transformers' processors, in its order; ids (rows, length)."""
    steps = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.repetition_penalty is not None:
        steps.insert(0, RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.top_k is not None:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        steps.append(MinPLogitsWarper(sampling.min_p))
    for step in steps:
        logits = step(ids, logits)
    return torch.softmax(logits, -1)


def seen(ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    return torch.zeros(len(ids), vocab_size, dtype=torch.bool).scatter_(1, ids, True)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [None, 0.1, 0.7])
@pytest.mark.parametrize("min_p", [None, 0.05, 1.0])
@pytest.mark.parametrize("repetition_penalty", [None, 0.7, 1.5])
def test_probabilities_as_transformers(temperature, top_k, top_p, min_p, repetition_penalty):
    """Catches another order of the steps, top-p that drops the token that crosses the threshold, no renormalising,
    min-p of all probability instead of the likeliest's, a penalty that makes negative logits likelier."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 100, generator=generator) * 3
    ids = torch.randint(0, 100, (4, 30), generator=generator)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    ours = sampling.probabilities(logits, seen(ids, 100))
    torch.testing.assert_close(ours, theirs(logits, ids, sampling))


def test_each_row_has_its_own_parameters():
    """Catches one row's temperature or top-p used for all, which a batch of equal requests would not show."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 50, generator=generator) * 2
    wanted = [(0.5, 50, 0.6, 0.0), (1.0, 4, 1.0, 0.0), (2.0, 50, 0.9, 0.0), (1.0, 50, 1.0, 0.2)]
    kept = restrict(logits, *(torch.tensor(column) for column in zip(*wanted, strict=True))).isfinite()
    for row, values in enumerate(wanted):
        assert torch.equal(kept[row], Sampling(*values).probabilities(logits[row]) > 0)
    assert kept.sum(-1).min() >= 1
    ids, penalties = torch.randint(0, 50, (4, 9), generator=generator), [1.0, 1.2, 2.0, 0.5]
    ours = penalize(logits, seen(ids, 50), torch.tensor(penalties))
    for row, penalty in enumerate(penalties):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids[row : row + 1], logits[row : row + 1])
        torch.testing.assert_close(ours[row : row + 1], expected)


TINY = {
    "model_type": "llama",
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "eos_token_id": [],
}


@pytest.fixture(scope="module")
def tiny() -> Llama:
    llama = Llama.from_config(TINY, dtype="float32", kernels="torch", seed=2)
    llama.model.lm_head.mul_(40)  # random weights as they come find every token as likely as another
    return llama


def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Of Pearson's chi-square test; a draw that cannot be makes it 0."""
    possible = probabilities > 0
    if counts[~possible].any():
        return 0.0
    expected = counts.sum() * probabilities[possible].double()
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc((possible.sum() - 1).double() / 2, chi_square / 2))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1.3},
        {"temperature": 0.9, "repetition_penalty": 1.5},
        {"temperature": 1.1, "top_k": 12, "top_p": 0.95, "min_p": 0.03, "repetition_penalty": 1.4},
    ],
    ids=lambda values: "-".join(values),
)
def test_draws_have_their_probabilities(tiny, values):
    """The first and the second token's distributions over 1,000 seeds. Catches noise that is no Gumbel noise, noise
    that comes again, a penalty that forgets the prompt, options that a later step loses."""
    prompt = [5, 6, 5]
    drawn = [g.token_ids for g in tiny.generate([prompt] * 1000, max_new_tokens=2, seed=11, **values)]
    first = max({ids[0] for ids in drawn} - set(prompt), key=[ids[0] for ids in drawn].count)
    seconds = torch.tensor([ids[1] for ids in drawn if ids[0] == first])
    for context, found in ((prompt, torch.tensor([ids[0] for ids in drawn])), ([*prompt, first], seconds)):
        counts = torch.bincount(found, minlength=24)
        expected = theirs(tiny.logits(context)[-1:], torch.tensor([context]), Sampling(**values))[0]
        assert p_value(counts, expected) > 1e-3
    # The test has the power to tell: another temperature does not fit.
    wrong = theirs(tiny.logits(prompt)[-1:], torch.tensor([prompt]), Sampling(**values | {"temperature": 0.5}))
    assert p_value(torch.bincount(torch.tensor([ids[0] for ids in drawn]), minlength=24), wrong[0]) < 1e-3


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"max_new_tokens": 0},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"stop": [5]},
        {"seed": -1},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_values_outside_their_range_are_named(values):
    """Catches a negative temperature that turns the distribution upside down, NaN that slips through `<`, an empty
    stop string that ends every text at once, a seed that overflows on its way to the device."""
    with pytest.raises(LlamaError, match=next(iter(values))):
        Options(**values)
