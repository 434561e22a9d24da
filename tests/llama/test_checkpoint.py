"""Weights from safetensors: equal to what transformers saved."""

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint
from pytriton_llama.llama.config import LlamaConfig
from tests.llama.broken import INDEX, SINGLE, save_tiny


def load(folder, dtype=torch.float32):
    return checkpoint.load(folder, LlamaConfig.from_folder(folder), "cpu", dtype)


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_what_transformers_saved(shard, tied, bias, tmp_path):
    """Catches a shard left out, k and v exchanged, biases dropped, a tied lm_head demanded."""
    saved = save_tiny(tmp_path, shard, tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias)
    assert (tmp_path / INDEX).exists() == (shard == "20KB")
    loaded = load(tmp_path)
    if tied:
        del saved["lm_head.weight"]
    assert loaded.keys() == saved.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_casts_to_the_wanted_type(stored, wanted, tmp_path):
    """Catches a cast through a third type: bf16 to fp32 must be exact, fp32 to bf16 rounded once."""
    saved = save_tiny(tmp_path, dtype=stored)
    for name, tensor in load(tmp_path, wanted).items():
        assert tensor.dtype == wanted
        assert torch.equal(tensor, saved[name].to(wanted)), name


def test_loaded_tensors_do_not_change_with_the_file(tmp_path):
    """Tensors that still lie in the mapped file change, or kill the process, when the file is rewritten."""
    saved = save_tiny(tmp_path)
    loaded = load(tmp_path)
    with (tmp_path / SINGLE).open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.items())


def test_harmless_extras_are_ignored(tmp_path):
    """Old checkpoints hold inv_freq; a tied one may repeat its embedding as lm_head: the embedding counts. Catches all
    else ignored there, too."""
    save_tiny(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / SINGLE)
    extras = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "lm_head.weight": torch.ones(80, 48),
    }
    save_file(tensors | extras, tmp_path / SINGLE)
    assert load(tmp_path).keys() == tensors.keys()
    save_file(tensors | extras | {"lm_head.bias": torch.ones(80)}, tmp_path / SINGLE)
    with pytest.raises(LlamaError, match=r"unexpected tensor lm_head\.bias"):
        load(tmp_path)


def test_memory_that_does_not_hold_the_weights(tmp_path, monkeypatch):
    """Catches torch's own traceback, of a model larger than a GPU or larger than anything."""
    save_tiny(tmp_path)
    config = LlamaConfig.from_folder(tmp_path)
    with pytest.raises(LlamaError, match=r"model\.embed_tokens\.weight does not fit in the memory of cpu"):
        checkpoint.random(replace(config, vocab_size=2**31 - 1, hidden_size=2**31 - 1), "cpu", torch.float32, seed=0)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(LlamaError, match=r"model\.safetensors: \S+ does not fit in the memory of cpu: CUDA out of"):
        load(tmp_path)


def test_checks_all_headers_before_it_reads_weights(tmp_path, monkeypatch):
    """Catches a loader that moves gigabytes to the GPU before it sees that the last shard is missing."""
    save_tiny(tmp_path, "20KB")
    max(tmp_path.glob("*.safetensors")).unlink()
    monkeypatch.setattr(torch.Tensor, "to", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(LlamaError):
        load(tmp_path)


def test_progress_goes_to_stderr(tmp_path, capsys):
    """Catches a bar among the generated text, and one that was not asked for."""
    save_tiny(tmp_path)
    config = LlamaConfig.from_folder(tmp_path)
    capsys.readouterr()
    checkpoint.load(tmp_path, config, "cpu", torch.float32)
    assert capsys.readouterr() == ("", "")
    checkpoint.load(tmp_path, config, "cpu", torch.float32, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "weights: 100%" in err
