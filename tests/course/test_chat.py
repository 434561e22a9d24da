"""The widget says what the model says, stops when asked, and shows what the model computed."""

import html
import itertools
import re

import pytest
import torch

from pytriton_llama import Llama
from pytriton_llama.course.chat import Chat
from pytriton_llama.course.inside import Inside
from tests.llama import small_tokenizer
from tests.llama.tiny import TINY

PROMPT = "to be, or not"


@pytest.fixture
def llama(tmp_path) -> Llama:
    model = Llama.from_config(TINY | {"vocab_size": 258}, dtype="float32", kernels="torch").model
    return Llama(model, small_tokenizer.load(small_tokenizer.save(tmp_path), 258))


def press(chat: Chat, button: str = "generate") -> None:
    getattr(chat, button).click()
    chat.thread.join(60)
    assert not chat.thread.is_alive()


def text(chat: Chat) -> str:
    return re.sub(r"<[^>]+>", "", chat.answer.value)


def test_the_answer_is_the_models(llama):
    """Catches a slider that is not heard: each of these options makes another text."""
    chat, texts = Chat(llama, PROMPT, max_new_tokens=12), set()
    for options in ({}, {"temperature": 2.0}, {"seed": 3}, {"top_k": 2}, {"top_k": 0, "top_p": 0.1}):
        for name, value in options.items():
            getattr(chat, name).value = value
        press(chat)
        asked = {name: getattr(chat, name).value for name in ("temperature", "top_p", "seed")}
        expected = llama.generate(llama.chat_prompt(PROMPT), max_new_tokens=12, top_k=chat.top_k.value or None, **asked)
        assert chat.inside.token_ids[-12:] == expected.token_ids
        assert text(chat) == html.escape(expected.text)
        texts.add(tuple(expected.token_ids))
    assert len(texts) == 5


def test_it_streams_and_stops(llama):
    """Catches an answer that comes all at once, a button that cannot be pressed while text is made, and a stop that
    loses what there is."""
    chat, seen = Chat(llama, PROMPT, max_new_tokens=100), []

    def watch(change) -> None:
        seen.append((change["new"], chat.generate.disabled, chat.stop.disabled))
        if len(seen) == 4:
            chat.stop.click()

    chat.answer.observe(watch, names="value")
    press(chat)
    assert len(seen) == 4 and all(a[0].split("</div>")[0] in b[0] for a, b in itertools.pairwise(seen))
    assert all(busy and not still for _, busy, still in seen)
    assert (chat.generate.disabled, chat.stop.disabled) == (False, True)
    assert chat.looks.layout.display == "flex"


def test_what_cannot_be_asked_is_said(llama):
    """Catches a thread that dies in silence and leaves the button dead."""
    chat = Chat(llama, "x" * 200)
    press(chat)
    assert "context is 128" in chat.note.value and not chat.generate.disabled
    chat.prompt.value = PROMPT
    press(chat)
    assert "tokens" in chat.note.value


def test_the_bars_are_probabilities_of_the_token_drawn(llama):
    """Catches bars of the place after, and bars that forget how tokens were drawn."""
    chat = Chat(llama, PROMPT, max_new_tokens=6)
    chat.temperature.value, chat.top_k.value = 1.5, 3
    press(chat)
    place = chat._start_of_answer + 4
    chat.token.value = 4
    logits = llama.logits(chat.inside.token_ids)[place - 1]
    p = (logits.topk(3).values / 1.5).softmax(0)
    shown = [float(found) / 100 for found in re.findall(r"<td>([\d.]+)%", chat.bars.value)]
    assert shown[:3] == pytest.approx(p.tolist(), abs=1e-3) and sum(shown) == pytest.approx(1, abs=1e-3)
    assert chat.bars.value.count("#E69F00") == 1


def test_what_a_model_writes_is_no_markup(llama, monkeypatch):
    """Catches text that becomes part of the page."""
    monkeypatch.setattr(llama.tokenizer, "decode", lambda ids: "<script>")
    chat = Chat(llama, PROMPT, max_new_tokens=2)
    press(chat)
    assert "<script>" not in chat.bars.value and "&lt;script&gt;" in chat.bars.value


def test_attention_of_a_head(llama):
    """Catches another head's weights (heads share keys), a token that sees later ones, and the window left out."""
    model = llama.model
    ids = list(range(20, 32))
    inside = Inside(llama, ids)
    assert torch.equal(inside.logits, llama.logits(ids))
    layer, x = model.layers[0], model.embed_tokens[torch.tensor(ids)][None]
    qkv = model.ops.linear(model.ops.rms_norm(x, layer.input_layernorm, model.config.rms_norm_eps), layer.qkv_proj)
    q, k, _ = qkv.unflatten(-1, (8, 16)).transpose(1, 2).split((4, 2, 2), dim=1)
    q, k = model.ops.rotary_embedding(q, k, model.cos[:12], model.sin[:12])
    scores = q[0, 3] @ k[0, 1].T / 4
    expected = scores.masked_fill(torch.ones(12, 12).triu(1).bool(), float("-inf")).softmax(-1)
    torch.testing.assert_close(inside.attention(0, 3), expected)


def test_the_widget_draws_attention(llama):
    """Catches a picture that stays when a slider is moved."""
    chat = Chat(llama, PROMPT, max_new_tokens=3)
    press(chat)
    before = bytes(chat.attention.value)
    chat.head.value = 2
    after = bytes(chat.attention.value)
    chat.layer.value = 1
    assert before.startswith(b"\x89PNG") and len({before, after, bytes(chat.attention.value)}) == 3
    assert repr(chat) == "Open this notebook in Jupyter to talk to the model"
