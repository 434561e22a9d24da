"""The ``pytriton-llama`` program: what it prints, and that bad input ends in one line and exit code 2."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytriton_llama import Llama, cli
from pytriton_llama.llama import fetch
from pytriton_llama.runtime import interpreted


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the program in this process; (exit code, stdout, stderr)."""

    def program(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pytriton-llama", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return program


@pytest.fixture
def copy(smollm2, tmp_path):
    """The default model's folder, to be broken: links, so that what a test replaces is its own."""
    for file in smollm2.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def rewrite(file, change) -> None:
    """Replace a JSON file by a changed copy."""
    values = json.loads(file.read_text())
    change(values)
    file.unlink()
    file.write_text(json.dumps(values))


def assert_refused(result, *words: str) -> None:
    code, out, err = result
    assert code == 2
    assert out.strip() == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in err
    for word in words:
        assert word in last


def test_chat_and_generate(run, smollm2):
    """Catches an answer on stderr, a closing line on stdout, and a speed that counts the prompt's time."""
    code, out, err = run("chat", "What is the capital of France?", "--model", smollm2, "--kernels", "torch")
    assert (code, out) == (0, "The capital of France is Paris.\n")
    closing = r"7 tokens, first after [\d.]+ s, [\d.e+]+ tokens/s, [\d.e+]+ GB/s of weights read"
    assert re.fullmatch(closing, err.strip().splitlines()[-1])
    code, out, _ = run("generate", "The capital of France is", "--max-new-tokens", 1, "--kernels", "torch")
    assert (code, out) == (0, " Paris\n")


def test_options_arrive(run):
    """Catches an option that is parsed and dropped, or given to another."""
    arguments = ("generate", "One, two, three,", "--kernels", "torch", "--max-new-tokens", 12)
    assert run(*arguments, "--stop", "nowhere", "--stop", " six")[1] == " four, five,\n"
    options = {"temperature": 1.4, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    llama = Llama.from_pretrained(fetch.DEFAULT, kernels="torch")
    assert run(*arguments, *flags)[1] == llama.generate(arguments[1], max_new_tokens=12, **options).text + "\n"


def test_info(run):
    """Catches a program that needs a GPU to say that there is none."""
    code, out, _ = run("info")
    assert code == 0
    for word in ("GPU", "torch", "triton", "kernels", "dtypes"):
        assert word in out


def test_help_answers_without_torch():
    """Catches an import of seconds at the top of a module that ``--help`` needs, and a broken ``python -m``."""
    probe = (
        "import sys; sys.argv = ['pytriton-llama', '--help']\n"
        "import atexit; atexit.register(lambda: print('torch:', 'torch' in sys.modules))\n"
        "import pytriton_llama.__main__"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "fetch" in done.stdout and "chat" in done.stdout
    if not torch.cuda.is_available():  # with a GPU build, torch decides whether there is a GPU
        assert done.stdout.strip().endswith("torch: False")


def test_a_model_loads_without_what_only_tests_and_notebooks_need():
    """Catches seconds of importing transformers, matplotlib or Jupyter before the weights."""
    probe = "import pytriton_llama.cli, pytriton_llama.llama.generator, pytriton_llama.repl, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"transformers", "matplotlib", "IPython", "ipywidgets", "jupyter_client", "gguf", "scipy"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--temperature", -1), "temperature"),
        (("--top-p", 0), "top_p"),
        (("--top-p", 1.5), "top_p"),
        (("--top-k", 0), "top_k"),
        (("--min-p", 2), "min_p"),
        (("--repetition-penalty", 0), "repetition_penalty"),
        (("--stop", ""), "stop"),
        (("--seed", -1), "seed"),
        (("--max-new-tokens", 0), "max_new_tokens"),
        (("--kernels", "cuda"), "kernels"),
        (("--dtype", "int4"), "dtype"),
        (("--device", "tpu"), "device"),
        (("--model", "no/such/folder"), "no/such/folder"),
        (("--model", "nonsense"), "nonsense"),
    ],
    ids=str,
)
def test_bad_options(run, options, word):
    """Catches a traceback, exit code 1, and an error that does not name the option."""
    arguments = ("generate", "Hello", *options)
    assert_refused(run(*arguments, *(() if "--kernels" in options else ("--kernels", "torch"))), word)


def test_prompts(run):
    """Catches an empty prompt that reaches a kernel, and one past the context that is cut without a word."""
    assert_refused(run("generate", "", "--kernels", "torch"), "empty")
    assert_refused(run("generate", "word " * 9000, "--kernels", "torch"), "9001 tokens", "context is 8192")


def test_broken_checkpoints(run, copy):
    """Catches a traceback from a library, and damage found only after seconds of loading. One fault after another."""
    arguments = ("generate", "Hello", "--kernels", "torch", "--model", copy)
    weights = copy / "model.safetensors"
    whole = weights.resolve()

    weights.unlink()
    assert_refused(run(*arguments), "model.safetensors")
    weights.write_bytes(whole.read_bytes()[:1_000_000])
    assert_refused(run(*arguments), "model.safetensors")
    tensors = load_file(whole)
    lost = "model.layers.7.mlp.up_proj.weight"
    save_file({name: t for name, t in tensors.items() if name != lost}, weights)
    assert_refused(run(*arguments), lost)
    weights.unlink()
    weights.symlink_to(whole)

    rewrite(copy / "config.json", lambda c: c.update(rope_scaling={"rope_type": "longrope", "factor": 2.0}))
    assert_refused(run(*arguments), "rope_type", "longrope")
    rewrite(copy / "config.json", lambda c: c.update(rope_scaling=None, quantization_config={"bits": 4}))
    assert_refused(run(*arguments), "quantization_config")
    rewrite(copy / "config.json", lambda c: c.update(quantization_config=None, architectures=["MambaForCausalLM"]))
    assert_refused(run(*arguments), "MambaForCausalLM")
    (copy / "tokenizer.json").unlink()
    rewrite(copy / "config.json", lambda c: c.update(architectures=["LlamaForCausalLM"]))
    assert_refused(run(*arguments), "tokenizer.json")


@pytest.mark.skipif(not interpreted(), reason="a GPU can be measured")
def test_bench_without_a_gpu(run):
    """Catches times of the interpreter taken for a kernel's."""
    assert_refused(run("bench", "softmax"), "GPU")
    assert_refused(run("bench", "sofmax"), "sofmax", "softmax")


def test_a_wrong_checksum(run, monkeypatch, tmp_path):
    """Catches a file taken for the model because of its name; nothing half-written may remain."""
    monkeypatch.setenv("PYTRITON_LLAMA_CACHE", str(tmp_path))
    planted = tmp_path / f"{fetch.DEFAULT}.gguf"
    planted.write_bytes(b"GGUF, but not that one")
    assert_refused(run("fetch"), "SHA-256", planted.name)
    assert list(tmp_path.iterdir()) == [planted]


def test_no_network(run, monkeypatch, tmp_path):
    """Catches pip's traceback, a wait of minutes, and a half-made folder in the cache."""
    monkeypatch.setenv("PYTRITON_LLAMA_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert_refused(run("fetch"), "pip could not download")
    assert list(tmp_path.iterdir()) == []
