"""A tokenizer of single bytes, written and loaded by tests."""

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from pytriton_llama.llama import tokenizer
from pytriton_llama.llama.config import LlamaConfig

USER = [{"role": "user", "content": "a"}]


def save(folder, template="{{ messages[0].content }}", special=("<s>", "</s>"), ordinary=(), **parts):
    """A byte-level tokenizer without merges, ids from the alphabet, then the added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(tok, name, part)
    tok.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    tok.add_tokens([AddedToken(name, normalized=False) for name in ordinary])
    tok.save(str(folder / "tokenizer.json"))
    eos = {"__type": "AddedToken", "content": "</s>", "special": True}
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": eos,
    }
    if template is not None:
        values["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def load(folder, vocab_size=400):
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    return tokenizer.load(folder, LlamaConfig.from_dict({"model_type": "llama", "vocab_size": vocab_size, **sizes}))
