"""Chat templates: the checkpoint's own, rendered as transformers does and kept in bounds, and the built-in ones."""

import json

import pytest
import transformers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.tokenizer import built_in_templates, chat_template
from tests.llama.small_tokenizer import USER, load, save

# As the checkpoints on the hub have them.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = {
    "llama2": ["<unk>", "<s>", "</s>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
PUBLISHED = {"llama2": (LLAMA2, "<s>", "</s>"), "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>")}
PUBLISHED["chatml"] = (CHATML, "<|endoftext|>", "<|im_end|>")

SYSTEM = {"role": "system", "content": "  Be brief.\n"}
QUESTION = {"role": "user", "content": " 1 + 1?\n\n"}
ANSWER = {"role": "assistant", "content": "2 </s><|im_end|> "}
CHATS = [[QUESTION], [SYSTEM, QUESTION], [QUESTION, ANSWER, QUESTION], [SYSTEM, *[QUESTION, ANSWER] * 2]]


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("messages", CHATS, ids=range(len(CHATS)))
def test_renders_as_published(kind, messages, tmp_path):
    """Catches a lost blank, newline or begin-of-text, a second system message, text not trimmed where theirs is."""
    ours = load(save(tmp_path, None, TOKENS[kind]))
    template, bos, eos = PUBLISHED[kind]
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values | {"chat_template": template}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.chat(messages)
    assert theirs.decode(ids) == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("messages", [[ANSWER], [QUESTION] * 2, [SYSTEM, SYSTEM, QUESTION], [QUESTION, SYSTEM]])
def test_llama2_refuses_other_orders(messages, tmp_path):
    """Llama 2 has no form for these: what came out would not be what was meant."""
    with pytest.raises(LlamaError, match="roles must be user and assistant in turn"):
        load(save(tmp_path, None, TOKENS["llama2"])).chat(messages)


@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [
        (TOKENS["llama2"], "LLAMA2"),
        (["<s>", "</s>"], "LLAMA2"),
        (["<s>", "</s>", "<unk>", "<pad>"], "LLAMA2"),
        (TOKENS["llama3"], "LLAMA3"),
        (sorted({*TOKENS["llama3"]} - {"<|end_of_text|>"}), "LLAMA3"),
        (TOKENS["chatml"], "CHATML"),
        (["<|im_start|>", "<|im_end|>"], "CHATML"),
        (["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"], "CHATML"),
        (["<s>", "</s>", "<unk>", "[INST]", "[/INST]"], None),  # Mistral's later forms differ
        (["<s>"], None),
        (["<|im_start|>"], None),
        (["<|begin_of_text|>", "<|end_of_text|>"], None),
        ([], None),
    ],
)
def test_chosen_by_control_tokens(tokens, chosen):
    """Catches a template whose control tokens the vocabulary lacks: the model would read them as text."""
    assert built_in_templates.choose(set(tokens)) == (getattr(built_in_templates, chosen) if chosen else "")


def test_the_checkpoints_own_goes_first():
    own = chat_template.ChatTemplate("own", {})
    assert own.or_built_in({"<s>", "</s>"}) is own


class TestTemplates:
    def test_jinja_file_goes_first(self, tmp_path):
        tok = load(save(tmp_path, "old"))
        assert tok.decode(tok.chat(USER)) == "old"
        (tmp_path / "chat_template.jinja").write_text("new")
        tok = load(tmp_path)
        assert tok.decode(tok.chat(USER)) == "new"

    def test_the_config_s_tokens_by_their_names(self, tmp_path):
        """Catches one that the template finds undefined; some files have an object in a name's place."""
        values = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk")} | {"pad_token": {"content": "<pad>"}}
        source = "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}"
        template = chat_template.ChatTemplate.from_folder(tmp_path, values | {"chat_template": source})
        assert template.render(USER, ())[0] == "<bos><eos><unk><pad>"

    def test_named_templates(self, tmp_path):
        named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
        tok = load(save(tmp_path, named))
        assert tok.decode(tok.chat(USER)) == "plain"

    @pytest.mark.parametrize(
        "template",
        [
            "  {% if true %}\n x\n  {% endif %}\ny",
            "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
            "{{ '<b>&' }}{{ bos_token }}{{ eos_token }}",
            "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            "{% if tools is not none %}T{% endif %}{{ strftime_now('%Y') }}",
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = 1 %}{% endfor %}{{ ns.n }}",
        ],
    )
    def test_renders_as_transformers(self, template, tmp_path):
        """Catches HTML escapes, untrimmed blocks, missing break, tojson, strftime_now, namespace."""
        folder = save(tmp_path, template)
        messages = [{"role": "user", "content": 'ä "q" </s>\''}, {"role": "x", "content": "<"}]
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert theirs.decode(load(folder).chat(messages)) == expected

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
            ("{% for %}", "chat template: "),
            ("{{ messages[0].missing.deeper }}", "undefined|no attribute"),
            ("{{ 1 / 0 }}", "division by zero"),
            ("{{ ''.__class__.__mro__ }}", "unsafe"),
            ("{{ messages.append(1) }}", "append|unsafe"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
            ("{% include '/etc/passwd' %}", "chat template: "),
            ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes more than 1 s"),
            ("{{ 10 ** (10 ** 10) }}", "takes more than 1 s"),
            ("{{ 'a' * 10 ** 10 }}", "too much memory"),
            ("{{ 'a' | center(10 ** 10) }}", "too much memory"),
            ("{% set n = namespace(x='ab') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "memory"),
            ("{{ 'a' * 2 ** 25 }}", "a text of more than"),
            ("{{ raise_exception('a' * 10 ** 6) }}", "aaa"),
        ],
    )
    def test_a_bad_template_is_one_line(self, template, message, tmp_path, monkeypatch):
        """A template is somebody else's program: it must neither escape, hang, fill memory, nor end in a traceback."""
        monkeypatch.setattr(chat_template, "_MAX_SECONDS", 1)
        tok = load(save(tmp_path, template))
        with pytest.raises(LlamaError, match=message) as caught:
            tok.chat(USER)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    @pytest.mark.parametrize("template", [None, ""])
    def test_none_fits(self, template, tmp_path):
        """Catches a built-in template whose control tokens the vocabulary lacks."""
        tok = load(save(tmp_path, template, special=("<bos>", "<|im_start|>")))
        with pytest.raises(LlamaError, match="no chat template"):
            tok.chat(USER)

    @pytest.mark.parametrize("special", [("<" + "s" * 5000 + ">",), [f"<|reserved_{i:040}|>" for i in range(3000)]])
    def test_control_tokens_that_are_too_many(self, special, tmp_path):
        """Catches minutes spent on a pattern for all their beginnings."""
        tok = load(save(tmp_path, special=special), vocab_size=4000)
        with pytest.raises(LlamaError, match="too many control tokens"):
            tok.chat(USER)

    def test_a_control_token_without_a_name(self, tmp_path):
        """Catches one that stands at every character."""
        tok = load(save(tmp_path, special=("", "<s>")))
        assert tok.decode(tok.chat(USER)) == "a"

    @pytest.mark.parametrize("template", [1, {"a": 1}, [{"name": "default", "template": 2}], "x" * 2_000_000])
    def test_refuses_what_is_no_template(self, template, tmp_path):
        """Catches a traceback where the file holds something else."""
        with pytest.raises(LlamaError, match=r"chat.template"):
            load(save(tmp_path, template)).chat(USER)

    def test_refuses_a_jinja_file_that_is_no_text(self, tmp_path):
        save(tmp_path)
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
        with pytest.raises(LlamaError, match=r"chat_template\.jinja"):
            load(tmp_path)
