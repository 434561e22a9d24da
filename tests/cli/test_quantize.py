"""``pytriton-llama quantize``: a folder in fewer bits, or one line that says why not."""

import re

import pytest

from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.scheme import Scheme
from tests.cli.test_import import run
from tests.llama.broken import save_tiny


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ((), Scheme(4, 64, False)),
        (("--bits", 8), Scheme(8, None, False)),
        (("--bits", 4, "--group-size", 32, "--minima", "--method", "clip"), Scheme(4, 32, True)),
    ],
)
def test_options_arrive(options, scheme, tmp_path):
    """Catches an option that is parsed and dropped, a folder that is not the one printed, remains in the cache, and
    bytes of which the embedding is left out."""
    save_tiny(tmp_path / "model", hidden_size=64, intermediate_size=192)
    done = run("quantize", tmp_path / "model", *options, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "cache").iterdir()
    assert (
        done.stdout == f"{folder}\n"
        and folder.name.startswith("model-")
        and ("-clip" in folder.name) == ("clip" in options)
    )
    assert LlamaConfig.from_folder(folder).quantization == scheme
    numbers = r"[\d.]+ MB of weights, were 0\.6; [\d.]+ MB read a token, were 0\.6; relative RMS error [\d.]+"
    assert re.fullmatch(f"{scheme}: {numbers}", done.stderr.strip().splitlines()[-1])
    again = run("quantize", tmp_path / "model", *options, cache=tmp_path / "cache")
    assert (again.stdout, again.stderr) == (done.stdout, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--group-size", 128), "group_size is 128, rows have 64 and 192 weights: what works in 4 bits is 64, 32"),
        (("--bits", 5), "bits must be 4 or 8, got 5"),
        (("--method", "gptq"), "gptq"),
    ],
)
def test_bad_options_end_in_one_line(options, message, tmp_path):
    """Catches a traceback, and remains in the cache."""
    save_tiny(tmp_path / "model", hidden_size=64, intermediate_size=192)
    done = run("quantize", tmp_path / "model", *options, cache=tmp_path / "cache")
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []
