import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.sampling import Sampling, restrict


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


def test_each_row_is_restricted_by_its_own_parameters():
    """Catches one row's temperature or top-p used for all, which a batch of equal requests would not show."""
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)) * 2
    wanted = [(0.5, 50, 0.6, 0.0), (1.0, 4, 1.0, 0.0), (2.0, 50, 0.9, 0.0), (1.0, 50, 1.0, 0.2)]
    parameters = (torch.tensor(column) for column in zip(*wanted, strict=True))
    kept = restrict(logits, *parameters).isfinite()
    for row, values in enumerate(wanted):
        assert torch.equal(kept[row], Sampling(*values).probabilities(logits[row]) > 0)
    assert kept.sum(-1).min() >= 1


@pytest.mark.parametrize(
    "values",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}],
    ids=str,
)
def test_values_outside_their_range_are_named(values):
    """Catches a negative temperature that turns the distribution upside down, and NaN that slips through `<`."""
    with pytest.raises(LlamaError, match=next(iter(values))):
        Sampling(**values)
