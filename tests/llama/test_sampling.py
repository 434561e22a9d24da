import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.sampling import Sampling


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [None, 0.1, 0.7, 1.0])
def test_probabilities_as_transformers(temperature, top_k, top_p):
    """Catches another order of the steps, top-p that drops the token that crosses the threshold, no renormalising."""
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)) * 3
    theirs = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p is not None and top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    ours = Sampling(temperature, top_k, top_p).probabilities(logits)
    torch.testing.assert_close(ours, torch.softmax(theirs, -1))


def test_draws_follow_the_probabilities():
    """Catches draws from the logits before filtering, and from another row's distribution."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 0.0]])
    sampling, draws = Sampling(1.0, top_k=3), 4000
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    counts = torch.zeros(2, 4)
    for _ in range(draws):
        for row, token in enumerate(sampling.choose(logits, generators)):
            counts[row, token] += 1
    expected = sampling.probabilities(logits)
    chi_square = ((counts - draws * expected).square() / (draws * expected).clamp(min=1)).sum(-1)
    # 3 degrees of freedom: 16.3 is exceeded once in a thousand; the seed is fixed, so this never flickers.
    assert (chi_square < 16.3).all() and counts[0, 3] == 0


def test_a_seed_fixes_the_draw_and_temperature_zero_needs_none():
    """Catches the global generator used instead of the sequence's own."""
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return [Sampling(1.0).choose(logits, [generator])[0] for _ in range(20)]

    assert draw(1) == draw(1) != draw(2)
    assert Sampling(0.0, top_k=3, top_p=0.5).choose(logits, []) == [int(logits.argmax())]


@pytest.mark.parametrize(
    "values",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}],
    ids=str,
)
def test_values_outside_their_range_are_named(values):
    """Catches a negative temperature that turns the distribution upside down, and NaN that slips through `<`."""
    with pytest.raises(LlamaError, match=next(iter(values))):
        Sampling(**values)
