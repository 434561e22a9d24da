"""Checkpoints that are wrong in one way each: by name, what spoils a good folder and what the error must say.

A good folder is a tiny Llama's as transformers saves it, in one file or in shards, or as it is quantised then, or holds
a tiny GGUF file.
"""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from pytriton_llama.llama import fetch
from tests.llama.test_gguf import METADATA, tiny_weights, write_tiny

SINGLE, INDEX, GGUF = "model.safetensors", "model.safetensors.index.json", "model.gguf"
NORM = "model.norm.weight"
Q = "model.layers.1.self_attn.q_proj.weight"

Spoil = Callable[[Path], object]
Cases = dict[str, tuple[Spoil, str]]


def save_tiny(folder: Path, shard="1GB", dtype=torch.float32, **changes) -> dict[str, torch.Tensor]:
    """Save a random model; returns its state dict."""
    torch.manual_seed(len(str(folder)))
    sizes = {"vocab_size": 80, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.LlamaConfig(**sizes | changes)
    model = transformers.LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # norms and biases differ from tensor to tensor
    model.save_pretrained(folder, max_shard_size=shard)
    return model.state_dict()


def resave(change) -> Spoil:
    """What changes the saved tensors, a dict, by ``change``."""

    def spoil(folder):
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE)

    return spoil


def put(name, tensor) -> Spoil:
    return resave(lambda tensors: tensors.update({name: tensor}))


def poison(value: float) -> Spoil:
    return resave(lambda tensors: tensors[Q].view(-1)[77].fill_(value))


def write(name: str, data: bytes | str) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def header(contents, length=None, data=b"") -> Spoil:
    """A file of a header, its length field true or not, and of ``data``."""
    text = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
    return write(SINGLE, struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(start: int, stop: int, shape=(48,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def pipe(name: str) -> Spoil:
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def directory(name: str) -> Spoil:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


def cut(name: str, share: float) -> Spoil:
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * share))


class Bomb:
    def __reduce__(self):
        return (os.abort, ())  # whoever unpickles this dies


SAFETENSORS: Cases = {
    "truncated": (cut(SINGLE, 0.9), SINGLE),
    "truncated header": (cut(SINGLE, 0.01), SINGLE),
    "empty file": (write(SINGLE, b""), SINGLE),
    "three bytes": (write(SINGLE, b"abc"), SINGLE),
    "header length beyond the file": (header({}, 2**62), SINGLE),
    "header of a gigabyte": (header({}, 2**30), SINGLE),
    "header no JSON": (header(b"no json!"), SINGLE),
    "header a list": (header([1]), SINGLE),
    "header of invalid UTF-8": (header(b"\xff\xfe"), SINGLE),
    "header nested deeply": (header(b'{"a":' * 100_000), SINGLE),
    "header of nothing": (header({}), "tensors are missing"),
    "offsets beyond the file": (header({NORM: entry(0, 192)}), SINGLE),
    "offsets against the shape": (header({NORM: entry(0, 0)}), SINGLE),
    "offsets backwards": (header({NORM: entry(192, 0)}, data=bytes(192)), SINGLE),
    "negative offsets": (header({NORM: entry(-192, 0)}, data=bytes(192)), SINGLE),
    "offsets that overlap": (header({NORM: entry(0, 192), Q: entry(0, 192)}, data=bytes(192)), SINGLE),
    "a gap between tensors": (header({NORM: entry(0, 192), Q: entry(200, 392)}, data=bytes(392)), SINGLE),
    "bytes of no tensor": (header({NORM: entry(0, 192)}, data=bytes(999)), SINGLE),
    "a shape that overflows": (header({NORM: entry(0, 192, (2**62, 4))}, data=bytes(192)), SINGLE),
    "a type that is none": (header({NORM: entry(0, 192, dtype="F999")}, data=bytes(192)), SINGLE),
    "a key that stands twice": (
        header(
            b"{%b,%b}" % tuple(b'"a":%b' % json.dumps(entry(i, i + 4, (1,))).encode() for i in (0, 4)), data=bytes(8)
        ),
        SINGLE,
    ),
    "a name of control characters": (put("\n\x1b[31mevil", torch.ones(3)), r"unexpected tensor \\x1b\[31mevil"),
    "a name of a megabyte": (put("x" * (1 << 20), torch.ones(3)), "unexpected tensor xxx"),
    "pickle posing as safetensors": (write(SINGLE, pickle.dumps(Bomb())), SINGLE),
    "only pickle": (
        lambda f: (f / SINGLE).rename(f / "pytorch_model.bin"),
        "only safetensors: nothing is unpickled",
    ),
    "a folder in its place": (directory(SINGLE), SINGLE),
    "a pipe in its place": (pipe(SINGLE), f"{SINGLE}: not a file"),
    "NaN": (poison(torch.nan), f"{Q} holds NaN"),
    "infinity": (poison(-torch.inf), f"{Q} holds NaN or infinite"),
    "wrong shape": (put(Q, torch.ones(48, 64)), rf"{Q} has shape \(48, 64\)"),
    "no dimensions": (put(NORM, torch.tensor(1.0)), rf"{NORM} has shape \(\)"),
    "no elements": (put(NORM, torch.ones(0)), rf"{NORM} has shape \(0,\)"),
    "missing tensor": (resave(lambda t: t.pop(Q)), f"1 tensors are missing, the first is {Q}"),
    "unexpected tensor": (put("lora", torch.ones(3)), "unexpected tensor lora"),
    "bias the config lacks": (put("model.layers.0.mlp.up_proj.bias", torch.ones(72)), "unexpected .*up_proj.bias"),
    "integers": (put(NORM, torch.ones(48, dtype=torch.int8)), "is I8"),
    "float64": (put(NORM, torch.ones(48, dtype=torch.float64)), "is F64"),
    "fp8": (put(NORM, torch.ones(48).to(torch.float8_e4m3fn)), "is F8_E4M3"),
}


def edit(name: str, change) -> Spoil:
    """What changes the object in a JSON file by ``change``."""

    def spoil(folder):
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return spoil


def set_map(weight_map) -> Spoil:
    return edit(INDEX, lambda index: index.update(weight_map=weight_map))


def leave_out_shard(index):
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if "00001-of" not in file}


def repeat_tensor(folder):
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(second).items()))
    save_file(load_file(first) | {name: tensor}, first)


def link_outside(folder):
    file = min(folder.glob("*.safetensors"))
    file.symlink_to(file.rename(folder.with_name("outside.safetensors")))


OUTSIDE: list = ["../../etc/passwd", "/etc/passwd", "..", "", "../other/model.safetensors", "a/b.safetensors"]
OUTSIDE += ["..\\model.safetensors", "pytorch_model.bin", "a\0.safetensors", None, 3]
SHARDED: Cases = {
    "missing shard": (lambda folder: min(folder.glob("*.safetensors")).unlink(), "-00001-of"),
    "truncated shard": (lambda folder: os.truncate(max(folder.glob("*.safetensors")), 99), "not a readable"),
    "index no JSON": (write(INDEX, "{"), "not valid JSON"),
    "index with a key that stands twice": (write(INDEX, '{"weight_map": {"a": "b", "a": "c"}}'), "'a' stands twice"),
    "index without weight_map": (edit(INDEX, lambda index: index.pop("weight_map")), "weight_map"),
    "index of nothing": (set_map({}), "weight_map"),
    "weight_map a list": (set_map(["a"]), "weight_map"),
    "shard left out": (edit(INDEX, leave_out_shard), "tensors are missing"),
    "tensor in two files": (repeat_tensor, "in another file"),
    "a link out of the folder": (link_outside, f"{INDEX}: .*-00001-of.* is no safetensors file of the folder"),
} | {f"index leads to {path!r}": (set_map({NORM: path}), f"{INDEX}: .* is no safetensors file") for path in OUTSIDE}


def config(**changes) -> Spoil:
    return edit("config.json", lambda values: values.update(changes))


CONFIG: Cases = {
    "config missing": (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
    "config empty": (write("config.json", b""), "config.json: not valid JSON"),
    "config a folder": (directory("config.json"), "config.json: cannot be read: not a file"),
    "config a pipe": (pipe("config.json"), "config.json: cannot be read: not a file"),
    "config of invalid UTF-8": (write("config.json", b'{"a": "\xff"}'), "config.json: not valid JSON"),
    "config nested deeply": (write("config.json", "[" * 100_000), "config.json: not valid JSON"),
    "config of an enormous integer": (write("config.json", '{"a": %s}' % ("9" * 5000)), "config.json: not valid JSON"),
    "config with a key that stands twice": (write("config.json", '{"a": 1, "a": 2}'), "the key 'a' stands twice"),
    "config of gigabytes": (lambda folder: os.truncate(folder / "config.json", 1 << 34), "larger than 64 MiB"),
    "generation_config a pipe": (
        lambda folder: ((folder / "generation_config.json").unlink(), os.mkfifo(folder / "generation_config.json")),
        "generation_config.json: cannot be read",
    ),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers must be at most 1024"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers must be a positive integer"),
    "a billion positions": (config(max_position_embeddings=10**9), "max_position_embeddings must be at most"),
    "a billion positions by scaling": (config(rope_scaling={"type": "dynamic", "factor": 1e300}), "at most"),
    "a vocabulary of billions": (config(vocab_size=2**31 - 1), "has shape .*the config needs"),
    "sizes as text": (config(hidden_size="48"), "hidden_size must be a positive integer"),
    "a list of heads": (config(num_attention_heads=[4]), "num_attention_heads must be a positive integer"),
    "a negative id": (config(bos_token_id=-1), "bos_token_id must be a token id"),
    "an id outside the vocabulary": (config(bos_token_id=80), "bos_token_id is 80, outside the vocabulary of 80"),
    "another architecture": (config(model_type="gpt2"), "model_type must be 'llama' or 'mistral'"),
    "code of its own": (config(auto_map={"AutoModel": "evil.Model"}, model_type="evil"), "model_type must be"),
}


def gguf_bytes(*keys: bytes, tensors: bytes = b"", tensor_count=0, key_count: int | None = None) -> Spoil:
    counts = struct.pack("<QQ", tensor_count, len(keys) if key_count is None else key_count)
    return write(GGUF, b"GGUF" + struct.pack("<I", 3) + counts + b"".join(keys) + tensors)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, sizes: tuple[int, ...], kind=0, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def array(kind: int, count: int, data=b"") -> bytes:
    return struct.pack("<IQ", kind, count) + data


def not_a_number(matrix: np.ndarray) -> tuple[np.ndarray, GGMLQuantizationType]:
    """Q8_0: blocks of 32, and of 34 bytes, of which the first two are the scale."""
    return np.full((matrix.shape[0], matrix.shape[1] // 32 * 34), 255, np.uint8), GGMLQuantizationType.Q8_0


U8, U32, ARRAY = 0, 4, 9
NOT_READABLE = f"{GGUF}: not a readable GGUF file"
GGUFS: Cases = {
    "GGUF empty": (write(GGUF, b""), NOT_READABLE),
    "GGUF a folder": (directory(GGUF), GGUF),
    "GGUF a pipe": (pipe(GGUF), f"{GGUF}: no such file"),
    "GGUF truncated": (cut(GGUF, 0.5), f"{NOT_READABLE}: it ends"),
    "GGUF truncated metadata": (cut(GGUF, 0.002), f"{NOT_READABLE}: it ends"),
    "GGUF wrong magic": (write(GGUF, b"GGML" + bytes(99)), NOT_READABLE),
    "GGUF of version 99": (write(GGUF, b"GGUF" + struct.pack("<IQQ", 99, 0, 0)), "version 99"),
    "GGUF of nothing": (gguf_bytes(), "metadata key 'general.architecture' is missing"),
    "GGUF promises keys": (gguf_bytes(key_count=2**60), f"{NOT_READABLE}: it ends"),
    "GGUF promises tensors": (gguf_bytes(tensor_count=2**60), f"{NOT_READABLE}: it ends"),
    "GGUF promises a string": (gguf_bytes(struct.pack("<Q", 2**62)), f"{NOT_READABLE}: it ends"),
    "GGUF promises bytes": (gguf_bytes(key(b"a", ARRAY, array(U8, 2**60))), f"{NOT_READABLE}: more than"),
    "GGUF promises a million bytes": (gguf_bytes(key(b"a", ARRAY, array(U8, 10**6))), f"{NOT_READABLE}: it ends"),
    "GGUF of five million bytes": (
        gguf_bytes(key(b"a", ARRAY, array(U8, 5_000_000, bytes(5_000_000)))),
        f"{NOT_READABLE}: more than",
    ),
    "GGUF nested deeply": (gguf_bytes(key(b"a", ARRAY, array(ARRAY, 1) * 9999)), NOT_READABLE),
    "GGUF of an unknown value": (gguf_bytes(key(b"a", 77, b"")), NOT_READABLE),
    "GGUF of invalid UTF-8": (gguf_bytes(key(b"\xff", U32, bytes(4))), NOT_READABLE),
    "GGUF with a key that stands twice": (gguf_bytes(*[key(b"a", U32, bytes(4))] * 2), "Duplicate a already"),
    "GGUF with a tensor that stands twice": (
        gguf_bytes(tensors=tensor(b"a", (1,)) * 2 + bytes(99), tensor_count=2),
        NOT_READABLE,
    ),
    "GGUF aligned to nothing": (gguf_bytes(key(b"general.alignment", U32, bytes(4))), NOT_READABLE),
    "GGUF of four billion dimensions": (
        gguf_bytes(tensors=text(b"a") + struct.pack("<I", 2**32 - 1) + bytes(99), tensor_count=1),
        f"{NOT_READABLE}: it ends",
    ),
    "GGUF tensor of 2^126": (gguf_bytes(tensors=tensor(b"a", (2**63, 2**63)), tensor_count=1), NOT_READABLE),
    "GGUF tensor beyond the file": (gguf_bytes(tensors=tensor(b"a", (8,), offset=2**40), tensor_count=1), NOT_READABLE),
    "GGUF tensor of an unknown type": (gguf_bytes(tensors=tensor(b"a", (8,), kind=999), tensor_count=1), NOT_READABLE),
    "GGUF of another architecture": (
        lambda folder: write_tiny(folder / GGUF, {}, METADATA, "qwen2"),
        "architecture must be llama, got 'qwen2'",
    ),
    "GGUF of NaN scales": (
        lambda folder: write_tiny(folder / GGUF, tiny_weights(), encode=not_a_number),
        "token_embd.weight holds NaN",
    ),
    "GGUF of a billion layers": (
        lambda folder: write_tiny(folder / GGUF, {}, METADATA | {"llama.block_count": 10**9}),
        "num_hidden_layers must be at most",
    ),
}


def put_parts(**parts: torch.Tensor | None) -> Spoil:
    """Replace parts of the quantised Q (64, 64), which has 4 bits in groups of 32; None: it is missing."""

    def change(tensors):
        for part, tensor in parts.items():
            del tensors[f"{Q}.{part}"]
            tensors |= {} if tensor is None else {f"{Q}.{part}": tensor}

    return resave(change)


def scheme(**changes) -> Spoil:
    return edit("config.json", lambda values: values["quantization_config"].update(changes))


SCALES = torch.ones(64, 2).half()
QUANTIZED: Cases = {
    "three bits": (scheme(bits=3), "quantization_config: bits must be 4 or 8, got 3"),
    "bits as text": (scheme(bits="4"), "quantization_config.bits must be a positive integer"),
    "groups of 2^40": (scheme(group_size=2**40), "quantization_config.group_size must be at most"),
    "groups of no row": (scheme(group_size=48), "quantization_config: group_size is 48, .* what works in 4 bits is 32"),
    "minima as text": (scheme(minima="no"), "quantization_config.minima must be true or false"),
    "another method": (scheme(quant_method="awq"), "quantization_config.quant_method = 'awq' is not supported"),
    "no method": (scheme(quant_method=None), "quantization_config.quant_method = None is not supported"),
    "scheme a list": (config(quantization_config=[4]), "quantization_config must be an object or null"),
    "no scheme": (config(quantization_config=None), "unexpected tensor .*packed: the model has no use for it"),
    "packed rows of no bits": (put_parts(packed=torch.ones(64, 9).int()), rf"{Q}.packed has shape \(64, 9\)"),
    "packed too few rows": (put_parts(packed=torch.ones(63, 8).int()), rf"{Q}.packed has shape \(63, 8\)"),
    "packed without dimensions": (put_parts(packed=torch.tensor(1).int()), rf"{Q}.packed has shape \(\)"),
    "packed as int64": (put_parts(packed=torch.ones(64, 8).long()), f"{Q}.packed is I64"),
    "scales missing": (put_parts(scales=None, minima=None), f"1 tensors are missing, the first is {Q}.scales"),
    "scales of no groups": (put_parts(scales=torch.ones(64, 0).half()), f"{Q}.scales: .* are not 0 groups"),
    "scales of three groups": (put_parts(scales=torch.ones(64, 3).half()), f"{Q}.scales: .* are not 3 groups"),
    "scales of groups too small": (put_parts(scales=torch.ones(64, 4).half()), f"{Q}.scales: .* are not 4 groups"),
    "scales without dimensions": (put_parts(scales=torch.tensor(1).half()), rf"{Q}.scales has shape \(\)"),
    "scales as float32": (put_parts(scales=SCALES.float()), f"{Q}.scales is F32"),
    "NaN scales": (put_parts(scales=SCALES * torch.nan), f"{Q}.scales holds NaN"),
    "infinite minima": (put_parts(minima=SCALES * torch.inf), f"{Q}.minima holds NaN or infinite"),
    "minima of other groups": (put_parts(minima=torch.ones(64, 1).half()), rf"{Q}.minima has shape \(64, 1\)"),
    "a weight twice, packed and not": (put(Q, torch.ones(64, 64)), f"unexpected tensor {Q}"),
    "a packed norm": (put(f"{NORM}.packed", torch.ones(64, 8).int()), f"unexpected tensor {NORM}.packed"),
}

CASES: Cases = SAFETENSORS | SHARDED | CONFIG | QUANTIZED | GGUFS


def make(name: str, folder: Path) -> Path:
    """A spoilt checkpoint below ``folder``: the path that a user would give."""
    home = folder / "model"
    home.mkdir(parents=True)
    if name in GGUFS:
        write_tiny(home / GGUF, tiny_weights())
    elif name in QUANTIZED:
        save_tiny(folder / "plain", hidden_size=64, intermediate_size=96)
        home.rmdir()
        fetch.quantize(folder / "plain", home, 4, 32, minima=True)
    else:
        save_tiny(home, "20KB" if name in SHARDED else "1GB")
    CASES[name][0](home)
    return home / GGUF if name in GGUFS else home
