"""Weights into safetensors files as Hugging Face writes them, of about a gigabyte each."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pytriton_llama.kernels.quantized_weight import QuantizedWeight
from pytriton_llama.llama.checkpoint import INDEX, PARTS, SINGLE

SHARD_BYTES = 1 << 30


def write(weights: Iterable[tuple[str, torch.Tensor | QuantizedWeight]], folder: Path) -> None:
    """Write named weights, as they come, into files of at most SHARD_BYTES (one tensor may be larger), with an index
    where there are several. Host memory holds one file and the weight that comes next. Raises ``OSError``."""
    files: list[Path] = []
    places: dict[str, int] = {}
    total, shard = 0, dict[str, torch.Tensor]()

    def close_file() -> None:
        files.append(folder / f"part-{len(files)}.safetensors")
        try:
            save_file(shard, files[-1], metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from error
        files[-1].chmod(folder.stat().st_mode & 0o666)  # save_file lets only its user read; a cache may be shared
        shard.clear()

    for name, tensor in _tensors(weights):
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            close_file()
        shard[name], places[name] = tensor, len(files)
        total += tensor.nbytes
    close_file()
    if len(files) == 1:
        files[0].rename(folder / SINGLE)
        return
    # Only now it is known how many there are.
    names = [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    for file, name in zip(files, names, strict=True):
        file.rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[i] for name, i in places.items()}}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _tensors(weights: Iterable[tuple[str, torch.Tensor | QuantizedWeight]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, weight in weights:
        if isinstance(weight, torch.Tensor):
            yield name, weight
        else:
            for part, tensor in zip(PARTS, weight.tensors, strict=True):
                if tensor is not None:
                    yield f"{name}.{part}", tensor
