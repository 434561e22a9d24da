"""The conversation of ``pytriton-llama chat``: its commands, its memory, and ways to stop."""

import json
import signal
import subprocess
import sys

import pytest

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.sampling import Options
from pytriton_llama.repl import Repl


class Stream(list):
    def __enter__(self):
        return iter(self)

    def __exit__(self, *_):
        pass


class Parrot:
    """A stand-in model: a message is as many tokens as it has words, the answer repeats the last one."""

    class config:
        max_position_embeddings = 40

    def chat_prompt(self, messages):
        return [word for m in messages for word in m["content"].split()]

    def stream(self, prompt, **options):
        if "boom" in prompt:
            raise LlamaError("boom")
        self.prompt, self.options = prompt, options
        return Interrupted() if prompt[-1] == "stop" else Stream(["I say ", prompt[-1]])


class Interrupted(Stream):
    def __enter__(self):
        yield "half"
        raise KeyboardInterrupt


@pytest.fixture
def repl() -> Repl:
    return Repl(Parrot(), Options(max_new_tokens=4))


def talk(repl: Repl, monkeypatch, capsys, *lines: str) -> tuple[list[str], list[str]]:
    """Lines of stdout and stderr; an exception instead of a line comes from the keyboard."""
    typed = iter([*lines, EOFError()])

    def read(_):
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    repl.run()
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()[1:]


def test_a_conversation(repl, monkeypatch, capsys):
    """Catches an answer that forgets what was said, empty lines that are answered, and help on stdout."""
    out, err = talk(repl, monkeypatch, capsys, "hello you", "", "  ", "/help", "and now", "/quit", "never read")
    assert out == ["I say you", "I say now"]
    assert repl.llama.prompt == ["hello", "you", "I", "say", "you", "and", "now"]
    assert any(line.startswith("/params") for line in err)


def test_commands(repl, monkeypatch, capsys, tmp_path):
    """Catches a system prompt that is lost with a reset, a file that cannot be read back, lost options."""
    file = tmp_path / "talk.json"
    lines = ("/system Be brief.", "one", "/reset", "two", f"/save {file}", "/params temperature=0.7 top_k=5", "three")
    out, err = talk(repl, monkeypatch, capsys, *lines)
    assert (out, err) == (["I say one", "I say two", "I say three"], [])
    roles = [("system", "Be brief."), ("user", "two"), ("assistant", "I say two")]
    assert json.loads(file.read_text()) == [{"role": role, "content": content} for role, content in roles]
    assert (repl.llama.options["temperature"], repl.llama.options["top_k"]) == (0.7, 5)
    assert repl.llama.options["max_new_tokens"] == 4
    _, err = talk(repl, monkeypatch, capsys, "/params top_k=none max_new_tokens=none", "/params", "/system", "four")
    assert "max_new_tokens=256 temperature=0.7 top_k=none" in err[0]
    assert repl.llama.prompt[0] == "two"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nonsense", "/nonsense is no command"),
        ("/params heat=1", "heat is no parameter; known: max_new_tokens, temperature"),
        ("/params temperature=hot", "temperature is 'hot'; it must be a number"),
        ("/params top_k=1.5", "top_k is '1.5'"),
        ("/params temperature", "temperature is ''"),
        ("/params top_p=2", "top_p is 2.0"),
        ("/save /no/such/folder/x", "cannot write '/no/such/folder/x'"),
        ("/save", "cannot write ''"),
        ("/save a\0b", "cannot write 'a\\x00b': embedded null byte"),
        ("boom", "boom"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "the line is no text"),
    ],
    ids=str,
)
def test_mistakes(repl, monkeypatch, capsys, line, message):
    """Catches a traceback, a conversation that ends over a typing error, and half of a change that stays."""
    before = repl.options
    out, err = talk(repl, monkeypatch, capsys, "one", line, "two")
    assert out == ["I say one", "I say two"]
    assert len(err) == 1 and err[0].startswith(f"error: {message}")
    assert repl.llama.prompt == ["one", "I", "say", "one", "two"]
    assert repl.options == before


def test_a_system_prompt_that_is_no_text(repl, monkeypatch, capsys, tmp_path):
    """Half a character, as a terminal gives it for broken bytes. Catches a session that ends because it is saved."""
    _, err = talk(repl, monkeypatch, capsys, "/system \ud83e", f"/save {tmp_path / 'talk.json'}", "/quit")
    assert len(err) == 1 and "cannot write" in err[0]


def test_interrupts(repl, monkeypatch, capsys):
    """Catches Ctrl-C that ends the session, and an answer cut short that the model does not remember."""
    out, err = talk(repl, monkeypatch, capsys, KeyboardInterrupt(), "stop", "go on")
    assert out == ["half", "I say on"]
    assert [line.strip() for line in err] == ["", "(stopped)"]
    assert repl.llama.prompt == ["stop", "half", "go", "on"]


def test_a_full_context_forgets_the_oldest(repl, monkeypatch, capsys):
    """Catches an error once the conversation is longer than the context, no room for the answer, a system prompt or
    the newest message that is dropped, and turns that go without a word."""
    talk(repl, monkeypatch, capsys, "/system S", *(f"m{i} " + "x " * 6 for i in range(3)))
    out, err = talk(repl, monkeypatch, capsys, "long " * 14)
    assert out == ["I say long"]
    assert err == ["note: the context of 40 tokens is full; the oldest 2 messages are forgotten"]
    assert repl.llama.prompt[:2] == ["S", "m1"] and len(repl.llama.prompt) == 35
    talk(repl, monkeypatch, capsys, "last " * 39)
    assert repl.llama.prompt == ["S"] + ["last"] * 39


def test_a_quarter_of_the_context_is_room_enough_for_an_answer(monkeypatch, capsys):
    """Catches turns forgotten for more room than that, and those of a conversation that just leaves it."""
    repl = Repl(Parrot(), Options(max_new_tokens=30))
    talk(repl, monkeypatch, capsys, "one")  # and its answer: 4 tokens
    _, err = talk(repl, monkeypatch, capsys, "x " * 26)
    assert err == [] and len(repl.llama.prompt) == 30


def test_ctrl_c_stops_an_answer_and_keeps_the_session(smollm2):
    """The program itself, on SmolLM2, from a pipe. Catches an interrupt that ends it, and one that is ignored."""
    command = [sys.executable, "-m", "pytriton_llama", "chat", "--model", smollm2, "--kernels", "torch"]
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        program.stdin.write("Write a long story about a llama.\n")
        program.stdin.flush()
        begun = program.stdout.read(10)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate("/reset\nWhat is the capital of France?\n", timeout=120)
    assert begun and program.returncode == 0
    assert out.splitlines()[-1] == "The capital of France is Paris."
    assert err.count("(stopped)") == 1 and "Traceback" not in err
