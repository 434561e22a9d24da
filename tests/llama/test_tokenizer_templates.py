"""Built-in chat templates: those published, where a checkpoint has none of its own."""

import json

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import built_in_templates, chat_template, tokenizer
from pytriton_llama.llama.config import LlamaConfig

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
USER = {"role": "user", "content": " 1 + 1?\n\n"}
ASSISTANT = {"role": "assistant", "content": "2 </s><|im_end|> "}
CHATS = [[USER], [SYSTEM, USER], [USER, ASSISTANT, USER], [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]]


def save(folder, tokens):
    """A byte-level tokenizer with these control tokens and no template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    tok.save(str(folder / "tokenizer.json"))
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    config = LlamaConfig.from_dict({"model_type": "llama", "vocab_size": 300, **sizes})
    return tokenizer.load(folder, config)


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("messages", CHATS, ids=range(len(CHATS)))
def test_renders_as_published(kind, messages, tmp_path):
    """Catches a lost blank, newline or begin-of-text, a second system message, text not trimmed where theirs is."""
    ours = save(tmp_path, TOKENS[kind])
    template, bos, eos = PUBLISHED[kind]
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values | {"chat_template": template}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.chat(messages)
    assert theirs.decode(ids) == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("messages", [[ASSISTANT], [USER, USER], [SYSTEM, SYSTEM, USER], [USER, SYSTEM]])
def test_llama2_refuses_other_orders(messages, tmp_path):
    """Llama 2 has no form for these: what came out would not be what was meant."""
    with pytest.raises(LlamaError, match="roles must be user and assistant in turn"):
        save(tmp_path, TOKENS["llama2"]).chat(messages)


@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [
        (TOKENS["llama2"], "LLAMA2"),
        (["<s>", "</s>"], "LLAMA2"),
        (["<s>", "</s>", "<unk>", "<pad>"], "LLAMA2"),
        (TOKENS["llama3"], "LLAMA3"),
        (TOKENS["chatml"], "CHATML"),
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
