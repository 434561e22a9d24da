"""GGUF's tokenizer metadata back to the files that a checkpoint's folder has.

A vocabulary of SentencePiece's kind ("llama") becomes a ``tokenizer.model``, a byte-level one ("gpt2") a
``tokenizer.json``. What the keys mean: the GGUF specification; what they default to: llama.cpp.
"""

from typing import Any

from tokenizers import AddedToken

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.tokenizer.byte_level import SPLITS, byte_level_bpe

_CONTROL, _USER_DEFINED = 3, 4  # token types; they are SentencePiece's
# llama.cpp writes one of these where it means its own name in SPLITS.
_ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}


def tokenizer_file(fields: dict[str, Any]) -> tuple[str, bytes]:
    """Name and content of the tokenizer's file. Raises :class:`LlamaError` for what is not supported, by name."""
    kind = fields["tokenizer.ggml.model"]
    if kind == "llama":
        return "tokenizer.model", _sentencepiece(fields)
    if kind == "gpt2":
        return "tokenizer.json", _byte_level(fields)
    raise LlamaError(f"tokenizer {kind} is not supported (only llama and gpt2)")


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``: what the metadata has of it."""
    llama = fields["tokenizer.ggml.model"] == "llama"
    values = {
        "tokenizer_class": "LlamaTokenizer" if llama else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
    }
    if llama:
        values |= {"add_bos_token": _adds(fields, "bos", True), "add_eos_token": _adds(fields, "eos", False)}
    if "tokenizer.chat_template" in fields:
        values["chat_template"] = fields["tokenizer.chat_template"]
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = _special(fields, name)
        if token is not None:
            values[f"{key}_token"] = token
    return values


def _special(fields: dict[str, Any], name: str) -> str | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in fields:
        return None
    tokens = fields["tokenizer.ggml.tokens"]
    if not 0 <= fields[key] < len(tokens):
        raise LlamaError(f"{key} is {fields[key]}, outside the vocabulary of {len(tokens)}")
    return tokens[fields[key]]


def _adds(fields: dict[str, Any], name: str, default: bool) -> bool:
    return bool(fields.get(f"tokenizer.ggml.add_{name}_token", default))


def _byte_level(fields: dict[str, Any]) -> bytes:
    split = fields.get("tokenizer.ggml.pre", "default")
    split = _ALIASES.get(split, split)
    if split not in SPLITS:
        raise LlamaError(f"tokenizer.ggml.pre {split!r} is not supported (only {', '.join(SPLITS)})")
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields["tokenizer.ggml.token_type"]
    added = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    # What stands around a text; a token that the metadata does not name stands nowhere.
    before = _special(fields, "bos") if _adds(fields, "bos", split == "llama-bpe") else None
    after = _special(fields, "eos") if _adds(fields, "eos", False) else None
    tokenizer = byte_level_bpe(
        {token: i for i, token in enumerate(tokens)},
        [_merge(merge) for merge in fields["tokenizer.ggml.merges"]],
        split,
        added,
        before=[before] if before else [],
        after=[after] if after else [],
    )
    return tokenizer.to_str().encode()


def _merge(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right):
        raise LlamaError(f"tokenizer.ggml.merges: {merge[:80]!r} is not two tokens")
    return left, right


def _sentencepiece(fields: dict[str, Any]) -> bytes:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

    tokens = fields["tokenizer.ggml.tokens"]
    model = ModelProto()
    columns = (tokens, fields["tokenizer.ggml.scores"], fields["tokenizer.ggml.token_type"])
    for token, score, kind in zip(*columns, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = TrainerSpec.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = "<0x00>" in tokens
    trainer.unk_piece = _special(fields, "unknown") or "<unk>"
    trainer.bos_piece = _special(fields, "bos") or "<s>"
    trainer.eos_piece = _special(fields, "eos") or "</s>"
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    normalizer.remove_extra_whitespaces = bool(fields.get("tokenizer.ggml.remove_extra_whitespaces", False))
    normalizer.escape_whitespaces = True
    return model.SerializeToString()
