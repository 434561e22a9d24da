"""Weights from safetensors: equal to what transformers saved, and broken files refused in one line."""

import json
import os
import pickle
import struct

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint
from pytriton_llama.llama.config import LlamaConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def save_tiny(folder, shard="1GB", dtype=torch.float32, **changes):
    """Save a random model; returns its state dict."""
    torch.manual_seed(len(str(folder)))
    config = transformers.LlamaConfig(
        vocab_size=80, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, **changes,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # norms and biases differ from tensor to tensor
    model.save_pretrained(folder, max_shard_size=shard)
    return model.state_dict()


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
    """Old checkpoints hold inv_freq; a tied one may repeat its embedding as lm_head: the embedding counts."""
    save_tiny(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / SINGLE)
    extras = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "lm_head.weight": torch.ones(80, 48),
    }
    save_file(tensors | extras, tmp_path / SINGLE)
    assert load(tmp_path).keys() == tensors.keys()


def resave(change):
    """What changes the saved tensors, a dict, by ``change``."""

    def spoil(folder):
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE)

    return spoil


def put(name, tensor):
    return resave(lambda tensors: tensors.update({name: tensor}))


def overwrite(folder, data):
    (folder / SINGLE).write_bytes(data)


def header(folder, contents, length=None):
    """A file of a header only, its length field true or not."""
    data = json.dumps(contents).encode()
    overwrite(folder, struct.pack("<Q", len(data) if length is None else length) + data)


class Bomb:
    def __reduce__(self):
        return (os.abort, ())  # whoever unpickles this dies


def only_pickle(folder):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


def drop_last_bytes(folder):
    data = (folder / SINGLE).read_bytes()
    overwrite(folder, data[:-100])


NORM = "model.norm.weight"
Q = "model.layers.1.self_attn.q_proj.weight"
BROKEN = {
    "truncated": (drop_last_bytes, SINGLE),
    "empty file": (lambda f: overwrite(f, b""), SINGLE),
    "three bytes": (lambda f: overwrite(f, b"abc"), SINGLE),
    "header length beyond the file": (lambda f: header(f, {}, 2**62), SINGLE),
    "header of a gigabyte": (lambda f: header(f, {}, 2**30), SINGLE),
    "header no JSON": (lambda f: overwrite(f, struct.pack("<Q", 8) + b"no json!"), SINGLE),
    "header a list": (lambda f: header(f, [1]), SINGLE),
    "offsets beyond the file": (
        lambda f: header(f, {NORM: {"dtype": "F32", "shape": [48], "data_offsets": [0, 192]}}),
        SINGLE,
    ),
    "offsets against the shape": (
        lambda f: header(f, {NORM: {"dtype": "F32", "shape": [48], "data_offsets": [0, 0]}}),
        SINGLE,
    ),
    "pickle posing as safetensors": (lambda f: overwrite(f, pickle.dumps(Bomb())), SINGLE),
    "only pickle": (only_pickle, "only safetensors: nothing is unpickled"),
    "a folder in its place": (lambda f: ((f / SINGLE).unlink(), (f / SINGLE).mkdir()), SINGLE),
    "wrong shape": (put(Q, torch.ones(48, 64)), rf"{Q} has shape \(48, 64\)"),
    "no dimensions": (put(NORM, torch.tensor(1.0)), rf"{NORM} has shape \(\)"),
    "missing tensor": (resave(lambda t: t.pop(Q)), f"1 tensors are missing, the first is {Q}"),
    "unexpected tensor": (put("lora", torch.ones(3)), "unexpected tensor lora"),
    "bias the config lacks": (
        put("model.layers.0.mlp.up_proj.bias", torch.ones(72)),
        "unexpected .*up_proj.bias",
    ),
    "integers": (put(NORM, torch.ones(48, dtype=torch.int8)), "is I8"),
    "float64": (put(NORM, torch.ones(48, dtype=torch.float64)), "is F64"),
    "fp8": (put(NORM, torch.ones(48).to(torch.float8_e4m3fn)), "is F8_E4M3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refuses_broken_files(name, tmp_path):
    """Each would otherwise be a traceback, a crash of the process, or a wrong model."""
    spoil, message = BROKEN[name]
    save_tiny(tmp_path)
    spoil(tmp_path)
    with pytest.raises(LlamaError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def edit_index(change):
    def spoil(folder):
        index = json.loads((folder / INDEX).read_text())
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return spoil


def set_map(weight_map):
    return edit_index(lambda index: index.update(weight_map=weight_map))


def leave_out_shard(index):
    places = index["weight_map"]
    index["weight_map"] = {name: file for name, file in places.items() if "00001-of" not in file}


def repeat_tensor(folder):
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(second).items()))
    save_file(load_file(first) | {name: tensor}, first)


OUTSIDE: list = ["../../etc/passwd", "/etc/passwd", "..", "", "../other/model.safetensors", "a/b.safetensors"]
OUTSIDE += ["..\\model.safetensors", "pytorch_model.bin", None, 3]
BROKEN_INDEX = {
    "missing shard": (lambda folder: min(folder.glob("*.safetensors")).unlink(), "-00001-of"),
    "truncated shard": (lambda folder: os.truncate(max(folder.glob("*.safetensors")), 99), "not a readable"),
    "no JSON": (lambda folder: (folder / INDEX).write_text("{"), "not valid JSON"),
    "no weight_map": (edit_index(lambda index: index.pop("weight_map")), "weight_map"),
    "empty weight_map": (set_map({}), "weight_map"),
    "weight_map a list": (set_map(["a"]), "weight_map"),
    "shard left out": (edit_index(leave_out_shard), "tensors are missing"),
    "tensor in two files": (repeat_tensor, "in another file"),
} | {f"leads to {path}": (set_map({NORM: path}), f"{INDEX}: .* is no safetensors file") for path in OUTSIDE}


@pytest.mark.parametrize("name", BROKEN_INDEX)
def test_refuses_broken_indices(name, tmp_path):
    """The index comes from outside: it must not lead out of its folder, nor hide a missing shard."""
    spoil, message = BROKEN_INDEX[name]
    save_tiny(tmp_path, "20KB")
    spoil(tmp_path)
    with pytest.raises(LlamaError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


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
