"""Weights from safetensors files, under Hugging Face's names.

Only safetensors: nothing is unpickled, so that opening a stranger's checkpoint runs none of their code. All
headers are checked against the config first: a wrong checkpoint fails before gigabytes have been moved.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.config import LlamaConfig, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FILE_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_DTYPES = ("F32", "F16", "BF16")


def expected_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor a checkpoint of this config holds; weights are (out, in)."""
    hidden, inter = config.hidden_size, config.intermediate_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    linears = {
        "self_attn.q_proj": (q_size, hidden, config.attention_bias),
        "self_attn.k_proj": (kv_size, hidden, config.attention_bias),
        "self_attn.v_proj": (kv_size, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, q_size, config.attention_bias),
        "mlp.gate_proj": (inter, hidden, config.mlp_bias),
        "mlp.up_proj": (inter, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inter, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{norm}.weight"] = (hidden,)
        for name, (size_out, size_in, bias) in linears.items():
            shapes[f"{prefix}{name}.weight"] = (size_out, size_in)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (size_out,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def load(
    folder: str | Path,
    config: LlamaConfig,
    device: str | torch.device,
    dtype: torch.dtype,
    progress: bool = False,
) -> dict[str, torch.Tensor]:
    """Every tensor of ``expected_shapes(config)``, cast to ``dtype`` on ``device``.

    Files are mapped, and tensors moved one by one: host memory beyond the result stays below one file. Raises
    :class:`LlamaError` for a missing, unexpected or misshapen tensor, for NaN and infinities, those of the cast among
    them, for a file that is not safetensors, and where memory does not hold the weights.
    """
    tensors: dict[str, torch.Tensor] = {}
    places = _places(_files(Path(folder)), config)
    with tqdm(total=sum(map(len, places.values())), desc="weights", disable=not progress) as bar:
        for file, names in places.items():
            with _open(file) as opened:
                for name in names:
                    # A copy even where dtype and device agree: else the tensor would change with the file.
                    with _fits(f"{file}: {name}", device):
                        tensors[name] = opened.get_tensor(name).to(device=device, dtype=dtype, copy=True)
                    check_finite(tensors[name], f"{file}: {name}")
                    bar.update()
    return tensors


def check_finite(tensor: torch.Tensor, name: str) -> None:
    """Raises :class:`LlamaError` where an element is NaN or infinite: one pass, as both win any extremum."""
    if not all(bound.isfinite() for bound in tensor.aminmax()):
        raise LlamaError(f"{name} holds NaN or infinite values (as {tensor.dtype})".replace("torch.", ""))


def random(config: LlamaConfig, device: str | torch.device, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """Tensors of ``expected_shapes(config)`` as an untrained model has them: norms 1, biases 0, all else normal with a
    standard deviation of 0.02. The same seed gives the same numbers on the same kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        with _fits(name, device):
            tensor = torch.empty(shape, device=device, dtype=dtype)
        if len(shape) == 1:
            tensors[name] = tensor.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            tensors[name] = tensor.normal_(0.0, 0.02, generator=generator)
    return tensors


@contextmanager
def _fits(name: str, device: str | torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own lack of memory is a RuntimeError
        raise LlamaError(f"{name} does not fit in the memory of {device}: {error}") from error


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        raise LlamaError(f"{folder}: holds no {SINGLE} or {INDEX} (only safetensors: nothing is unpickled)")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict):
        raise LlamaError(f"{folder / INDEX}: weight_map must map tensor names to file names")
    names = dict.fromkeys(map(str, weight_map.values()))
    for name in names:
        # An index comes from outside: it must not lead out of its folder.
        if not _FILE_NAME.fullmatch(name) or not _stays(folder, folder / name):
            raise LlamaError(f"{folder / INDEX}: {name!r} is no safetensors file of the folder")
    return [folder / name for name in names]


def _stays(folder: Path, file: Path) -> bool:
    """Whether a link, if it is one, leads to a file of the folder, or of the hub's own cache to which it belongs."""
    home, target = Path(os.path.realpath(folder)), Path(os.path.realpath(file))
    return target.parent in (home, home.parent.parent / "blobs")


def _places(files: list[Path], config: LlamaConfig) -> dict[Path, list[str]]:
    """File → the expected tensors in it, from the headers alone, each checked for shape and type."""
    shapes = expected_shapes(config)
    places: dict[Path, list[str]] = {}
    found: set[str] = set()
    for file in files:
        places[file] = []
        with _open(file) as opened:
            for name in opened.keys():  # noqa: SIM118 (the handle is no mapping)
                if name.endswith(".rotary_emb.inv_freq") or (name == "lm_head.weight" and name not in shapes):
                    continue  # computed from the config; tied to the embedding
                if name not in shapes:
                    raise LlamaError(f"{file}: unexpected tensor {name}: the model has no use for it")
                header = opened.get_slice(name)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != shapes[name]:
                    raise LlamaError(f"{file}: {name} has shape {shape}, the config needs {shapes[name]}")
                if dtype not in _DTYPES:
                    raise LlamaError(f"{file}: {name} is {dtype}, one of {', '.join(_DTYPES)} is needed")
                if name in found:
                    raise LlamaError(f"{file}: {name} stands in another file as well")
                found.add(name)
                places[file].append(name)
    missing = [name for name in shapes if name not in found]
    if missing:
        raise LlamaError(f"{files[0].parent}: {len(missing)} tensors are missing, the first is {missing[0]}")
    return places


def _open(file: Path) -> safe_open:
    if file.exists() and not file.is_file():  # reading a pipe would wait for ever
        raise LlamaError(f"{file}: not a file")
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise LlamaError(f"{file}: not a readable safetensors file: {error}") from error
