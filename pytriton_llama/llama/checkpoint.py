"""Weights from safetensors files, under Hugging Face's names.

Only safetensors: nothing is unpickled, so that opening a stranger's checkpoint runs none of their code. All
headers are checked against the config first: a wrong checkpoint fails before gigabytes have been moved.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from pytriton_llama.errors import LlamaError
from pytriton_llama.kernels.quantized_weight import BITS, QuantizedWeight
from pytriton_llama.llama.config import LlamaConfig, read_json
from pytriton_llama.llama.scheme import Scheme

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FILE_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_DTYPES = ("F32", "F16", "BF16")
PARTS = ("packed", "scales", "minima")  # of a quantised weight NAME, each a tensor NAME.part; the last may be missing


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
) -> dict[str, torch.Tensor | QuantizedWeight]:
    """Every weight of ``expected_shapes(config)`` on ``device``, cast to ``dtype`` where it is not quantised.

    Files are mapped, and tensors moved one by one: host memory beyond the result stays below one file. Raises
    :class:`LlamaError` for a missing, unexpected or misshapen tensor, for NaN and infinities, those of the cast among
    them, for a file that is not safetensors, and where memory does not hold the weights.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file, name, tensor in stream(folder, config, progress):
        wanted = tensor.dtype if name.endswith(PARTS) else dtype
        # A copy even where dtype and device agree: else the tensor would change with the file.
        with _fits(f"{file}: {name}", device):
            tensors[name] = tensor.to(device=device, dtype=wanted, copy=True)
        if wanted.is_floating_point:
            check_finite(tensors[name], f"{file}: {name}")
    return {name: _weight(name, shape, tensors) for name, shape in expected_shapes(config).items()}


def stream(folder: str | Path, config: LlamaConfig, progress: bool = False) -> Iterator[tuple[Path, str, torch.Tensor]]:
    """File, name and tensor, still mapped, one by one; of a quantised weight, that of each of its PARTS.

    ``progress``: show a bar; None: where somebody looks on. All headers are checked before the first. Raises
    :class:`LlamaError`.
    """
    places = _places(_files(Path(folder)), config)
    with tqdm(
        total=sum(map(len, places.values())), desc="weights", disable=None if progress is None else not progress
    ) as bar:
        for file, names in places.items():
            with _open(file) as opened:
                for name in names:
                    yield file, name, opened.get_tensor(name)
                    bar.update()


def _weight(name: str, shape: tuple[int, ...], tensors: dict[str, torch.Tensor]) -> torch.Tensor | QuantizedWeight:
    if name in tensors:
        return tensors[name]
    packed, scales, minima = (tensors.get(f"{name}.{part}") for part in PARTS)
    assert packed is not None and scales is not None
    return QuantizedWeight(packed, scales, minima, 32 * packed.shape[1] // shape[1], shape[1] // scales.shape[1])


def check_finite(tensor: torch.Tensor, name: str) -> None:
    """Raises :class:`LlamaError` where an element is NaN or infinite: one pass, as both win any extremum."""
    if not all(bound.isfinite() for bound in tensor.aminmax()):
        raise LlamaError(f"{name} holds NaN or infinite values (as {tensor.dtype})".replace("torch.", ""))


def random(
    config: LlamaConfig, device: str | torch.device, dtype: torch.dtype, seed: int
) -> dict[str, torch.Tensor | QuantizedWeight]:
    """Weights of ``expected_shapes(config)`` as an untrained model has them: norms 1, biases 0, all else of mean 0 and
    standard deviation 0.02, normal or, where the config quantises it, drawn as the bits that are stored. The same seed
    gives the same numbers on the same kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    weights: dict[str, torch.Tensor | QuantizedWeight] = {}
    for name, shape in expected_shapes(config).items():
        with _fits(name, device):
            if len(shape) == 1:
                value = 0.0 if name.endswith("bias") else 1.0
                weights[name] = torch.full(shape, value, device=device, dtype=dtype)
            elif config.quantization is None:
                weights[name] = torch.empty(shape, device=device, dtype=dtype).normal_(0.0, 0.02, generator=generator)
            else:
                weights[name] = _random_quantized(shape, config.quantization.of(name), generator)
    return weights


def _random_quantized(shape: tuple[int, ...], scheme: Scheme, generator: torch.Generator) -> QuantizedWeight:
    """Every q is as likely as any other; scales make them a standard deviation of 0.02."""
    rows, columns = shape
    group_size, most, device = scheme.group_size or columns, 2**scheme.bits - 1, generator.device
    packed = torch.empty((rows, columns * scheme.bits // 32), dtype=torch.int32, device=device)
    packed.random_(-(2**31), 2**31, generator=generator)
    scales = torch.full((rows, columns // group_size), 0.02 * (12 / (most * (most + 2))) ** 0.5, device=device).half()
    if scheme.minima:
        return QuantizedWeight(packed, scales, scales * (-most / 2), scheme.bits, group_size)
    # The q of 0 is not in the middle, but half a step above: only scales of both signs have a mean of 0.
    signs = torch.randint(0, 2, scales.shape, generator=generator, device=device) * 2 - 1
    return QuantizedWeight(packed, scales * signs, None, scheme.bits, group_size)


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


_Part = tuple[str, tuple[int, ...], tuple[str, ...]]


class _Header(NamedTuple):
    file: Path
    shape: tuple[int, ...]
    dtype: str


def _places(files: list[Path], config: LlamaConfig) -> dict[Path, list[str]]:
    """File → the expected tensors in it, from the headers alone, each checked for shape and type."""
    headers = _headers(files)
    places: dict[Path, list[str]] = {file: [] for file in files}
    missing: list[str] = []
    for weight, shape in expected_shapes(config).items():
        quantized = config.quantization and len(shape) == 2 and f"{weight}.packed" in headers
        for name, needed, dtypes in _parts(weight, shape, headers) if quantized else [(weight, shape, _DTYPES)]:
            header = headers.pop(name, None)
            if header is None:
                missing.append(name)
                continue
            if header.shape != needed:
                raise LlamaError(f"{header.file}: {name} has shape {header.shape}, the config needs {needed}")
            if header.dtype not in dtypes:
                raise LlamaError(f"{header.file}: {name} is {header.dtype}, one of {', '.join(dtypes)} is needed")
            places[header.file].append(name)
    for name, header in headers.items():
        tied = config.tie_word_embeddings and name.startswith("lm_head.weight")
        if not tied and not name.endswith(".rotary_emb.inv_freq"):  # which is computed from the config
            raise LlamaError(f"{header.file}: unexpected tensor {name}: the model has no use for it")
    if missing:
        raise LlamaError(f"{files[0].parent}: {len(missing)} tensors are missing, the first is {missing[0]}")
    return places


def _headers(files: list[Path]) -> dict[str, _Header]:
    headers: dict[str, _Header] = {}
    for file in files:
        with _open(file) as opened:
            for name in opened.keys():  # noqa: SIM118 (the handle is no mapping)
                if name in headers:
                    raise LlamaError(f"{file}: {name} stands in another file as well")
                part = opened.get_slice(name)
                headers[name] = _Header(file, tuple(part.get_shape()), part.get_dtype())
    return headers


def _parts(weight: str, shape: tuple[int, ...], headers: dict[str, _Header]) -> list[_Part]:
    """Name, shape and types that the parts of a quantised weight must have: its bits are those that the length of its
    packed rows tells, and its groups those that its scales tell."""
    (rows, columns), packed = shape, headers[f"{weight}.packed"]
    bits = next((b for b in BITS if packed.shape[1:] == (columns * b // 32,) and columns % (128 // b) == 0), None)
    if bits is None:
        raise LlamaError(
            f"{packed.file}: {weight}.packed has shape {packed.shape}: no {shape} in {' or '.join(map(str, BITS))} bits"
        )
    scales = headers.get(f"{weight}.scales")
    groups = scales.shape[-1] if scales and scales.shape else 1
    if groups < 1 or columns % groups or columns // groups % (128 // bits):
        raise LlamaError(f"{packed.file}: {weight}.scales: {columns} weights in {bits} bits are not {groups} groups")
    numbers = (rows, groups), ("F16",)
    parts: list[_Part] = [
        (f"{weight}.packed", (rows, columns * bits // 32), ("I32",)),
        (f"{weight}.scales", *numbers),
    ]
    if f"{weight}.minima" in headers:
        parts.append((f"{weight}.minima", *numbers))
    return parts


def _open(file: Path) -> safe_open:
    if file.exists() and not file.is_file():  # reading a pipe would wait for ever
        raise LlamaError(f"{file}: not a file")
    try:
        file.open("rb").close()  # safe_open says "no such file" of one that may not be read
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise LlamaError(f"{file}: not a readable safetensors file: {error}") from error
