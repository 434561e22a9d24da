"""Real tokenizer files: Mistral's and Llama 3's, from wheels."""

import contextlib
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_MISTRAL = "mistral-common==1.13.1"  # not installed: it asks for an older numpy
_MISTRAL_SHA256 = "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af"


@pytest.fixture(scope="session")
def mistral_files(tmp_path_factory) -> Path:
    """The folder of mistral-common's data, unpacked on first use into the user's own cache."""
    from pytriton_llama.llama import fetch

    folder = fetch.cache_dir() / _MISTRAL.replace("==", "-")
    if not folder.is_dir():
        temporary = tmp_path_factory.mktemp("mistral")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", _MISTRAL]
        subprocess.run([*command, "--dest", str(temporary)], check=True)
        (wheel,) = temporary.glob("*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == _MISTRAL_SHA256
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}-{os.getpid()}")
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(part, [name for name in opened.namelist() if ".model" in name])
        with contextlib.suppress(OSError):  # another worker was first
            part.rename(folder)
    return folder / "mistral_common" / "data"


@pytest.fixture(scope="session")
def mistral_model(mistral_files) -> Path:
    """Mistral 7B's ``tokenizer.model``: SentencePiece, 32,000 pieces."""
    return mistral_files / "tokenizer.model.v1"


@pytest.fixture(scope="session")
def llama3_model() -> Path:
    """Llama 3's ``tokenizer.model``, in Meta's form."""
    from llama_models.llama3 import tokenizer

    return Path(tokenizer.__file__).with_name("tokenizer.model")
