"""``bench generate``: every contender computes what ours does, and what is recorded comes back. Times need a GPU."""

import pytest
import torch

from pytriton_llama import Llama
from pytriton_llama.bench import decode_steps, figures, generate, quantized_models, results
from pytriton_llama.bench.torch_decoder import TorchDecoder, error
from pytriton_llama.errors import LlamaError
from pytriton_llama.runtime import interpreted
from tests.llama.tiny import TINY

SHAPE = TINY | {
    "rope_theta": 500.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.fixture
def llama() -> Llama:
    return Llama.from_config(SHAPE, dtype="float32")


@torch.no_grad()
def test_every_step_computes_the_same(llama):
    """Catches a step of the waterfall that leaves something out: it would be fast."""
    steps = decode_steps.Steps(llama.model, 37)
    expected = steps.fused()[0]
    for step in (steps.eager, steps.apart, steps.gemv):
        assert error(step(), expected) < 1e-5, step.__name__


@torch.no_grad()
def test_peers_have_our_weights(llama):
    """Catches q, k and v joined in another order, or RoPE's scaling lost on the way to transformers."""
    ids = generate.prompt_ids(97, generate.PROMPT)
    tensor = torch.tensor(ids, device=llama.model.device)
    theirs = generate.transformers_model(llama, generate._weights(llama))
    generate.agree(theirs(tensor[None]).logits[0, -1], llama)
    generate.agree(TorchDecoder(llama.model, 200)(tensor, torch.arange(len(ids), device=tensor.device)), llama)
    with pytest.raises(AssertionError, match="off"):
        generate.agree(theirs(tensor[None]).logits[0, -2], llama)


def recorded(environment: results.Environment) -> list[generate.Row]:
    times = (("pytriton_llama", 0.9), ("pytriton_llama, 16 sequences", 2.0), ("torch.compile", 1.4))
    rows = [
        generate._row("llama-3.2-1b", n, generate.Times(t / 1e3), "", 1, 2.4e9, 3e12, environment) for n, t in times
    ]
    return [*rows, generate._row("llama-3.2-1b", "transformers", None, "not there", 1, 2.4e9, 3e12, environment)]


def test_what_is_recorded_comes_back(environment, tmp_path):
    """Catches a column lost, a missing peer that breaks the plot, and a README section that is left as it was."""
    pytest.importorskip("matplotlib")
    rows = recorded(environment)
    generate.write(tmp_path, rows, {"eager torch": 1e-2, "PDL": 9e-4}, {"decode_linear_kernel": (30, 2e-4)})
    assert generate.read(tmp_path / "generate-llama-3.2-1b.csv") == rows
    assert (tmp_path / "generate-llama-3.2-1b.png").stat().st_size > 10_000
    steps = (tmp_path / "decode-steps-llama-3.2-1b.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in steps[1:]] == [["eager torch", "10000.0"], ["PDL", "900.0"]]
    kernels = (tmp_path / "decode-kernels-llama-3.2-1b.csv").read_text().splitlines()
    assert kernels[1].split(",")[:3] == ["decode_linear_kernel", "30", "200.0"]
    text = figures.updated("a\n<!-- bench:generate-llama-3.2-1b -->\nold\n<!-- /bench -->\nb\n", tmp_path)
    assert "old" not in text and "| pytriton_llama | 1111.1 |" in text
    assert figures.disagreements(text, tmp_path) == []


@pytest.mark.skipif(not interpreted(), reason="a GPU would measure")
def test_without_a_gpu():
    """Catches minutes of loading before the refusal."""
    with pytest.raises(LlamaError, match="GPU"):
        generate.command("llama-3.1-8b", record=False)


def test_expanded_weights_say_the_same():
    """Catches a weight that the 16-bit contenders have otherwise, and one that stayed packed."""
    scheme = {"quant_method": "pytriton_llama", "bits": 4, "group_size": 32, "minima": False}
    shape = SHAPE | {"hidden_size": 64, "intermediate_size": 96, "quantization_config": scheme}
    llama = Llama.from_config(shape, dtype="float32")
    plain = quantized_models.expanded(llama)
    ids = generate.prompt_ids(97, 40)
    assert error(plain.logits(ids), llama.logits(ids)) < 1e-5
    assert plain.model.bytes_per_token > 3 * llama.model.bytes_per_token


def test_bits_are_for_a_shape():
    """Catches a checkpoint's name taken for a shape's."""
    with pytest.raises(LlamaError, match="--bits is for a shape"):
        quantized_models.quantized("smollm2-135m-instruct", 4)
