"""Loading goes tensor by tensor: what a process holds at its peak."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from pytriton_llama.llama import checkpoint
from pytriton_llama.llama.config import LlamaConfig

CONFIG = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "tie_word_embeddings": False,
}
SHARD = 80_000_000
# Prints by how much the peak of its memory, mapped files included, has grown while a model was made.
PROGRAM = """
import re, sys, torch
from pytriton_llama import reference
from pytriton_llama.llama import checkpoint
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.model import LlamaModel
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
config = LlamaConfig.from_folder(sys.argv[1])
model = LlamaModel(config, checkpoint.load(sys.argv[1], config, "cpu", torch.float16), reference)
print(peak() - before)
"""


@pytest.fixture
def folder(tmp_path):
    """A float32 checkpoint of some 380 MB in shards of at most SHARD bytes."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in checkpoint.expected_shapes(LlamaConfig.from_dict(CONFIG)).items():
        tensor = torch.randn(shape)
        if sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > SHARD:
            shards.append({})
        shards[-1][name] = tensor
    places = {}
    for i, shard in enumerate(shards):
        save_file(shard, tmp_path / f"model-{i}.safetensors")
        places |= dict.fromkeys(shard, f"model-{i}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_one_shard_at_a_time(folder):
    """Catches all shards mapped at once, or read whole before they are cast: that takes twice the model and more."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, check=True)
    model = sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 2  # float16 of float32
    assert model < int(done.stdout) < model + SHARD + 40_000_000
