"""``tokenizer.model`` in SentencePiece's form (Llama 1 and 2, TinyLlama, Mistral), through ``sentencepiece``.

SentencePiece takes no control piece from a text, so what a user types stays text. A prompt is cut at the control
tokens that the chat template wrote, and the texts between are encoded one by one, as Meta and Mistral do. ``decode``
leaves out the space at the first piece's start, as SentencePiece and transformers do.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.tokenizer.chat_template import ChatTemplate, check_text
from pytriton_llama.llama.tokenizer.detokenizer import Stream
from pytriton_llama.llama.values import flag

_CONTROL = ModelProto.SentencePiece.CONTROL
_USER_DEFINED = ModelProto.SentencePiece.USER_DEFINED


class SentencePieceTokenizer:
    """``data`` is the file's content, ``values`` that of ``tokenizer_config.json``; ``file`` is named in errors."""

    def __init__(self, data: bytes, template: ChatTemplate, values: dict[str, Any], file: Path):
        try:
            self._load(_parse(data), template, {key: value for key, value in values.items() if value is not None})
            self._processor.decode(list(range(self.size)))  # each id has a text that is UTF-8
        except Exception as error:  # protobuf and sentencepiece raise many kinds
            raise LlamaError(f"{file}: not a usable SentencePiece model: {' '.join(str(error).split())}") from error

    def _load(self, model: ModelProto, template: ChatTemplate, values: dict[str, Any]) -> None:
        _append_added_tokens(model, values.get("added_tokens_decoder", {}))
        self._template = template.or_built_in({piece.piece for piece in model.pieces if piece.type == _CONTROL})
        for piece in model.pieces:  # those that are cut out of every text, `<|im_start|>` of some models
            if piece.type == _USER_DEFINED and self._template.writes(piece.piece):
                piece.type = _CONTROL
        self.size = len(model.pieces)
        self._controls = {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == _CONTROL}
        self._skipped = set(self._controls.values())
        self._processor = self._continuing = _processor(model)
        # transformers' word for: the space before a text stands after each control token too.
        if not flag(values, "legacy", True):
            model.normalizer_spec.add_dummy_prefix = False
            self._continuing = _processor(model)
        self._before = _ids(flag(values, "add_bos_token", True), self._processor.bos_id())
        self._after = _ids(flag(values, "add_eos_token"), self._processor.eos_id())

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return [*self._before, *self._processor.encode(text), *self._after]

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([i for i in ids if i < self.size and i not in self._skipped])

    def stream(self) -> Stream:
        return Stream(self.decode, self._skipped)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        names = sorted(self._controls, key=len, reverse=True)
        rendered, mark = self._template.render(messages, names)
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, names))})", rendered) if names else [rendered]:
            if part in self._controls:
                ids.append(self._controls[part])
            else:
                processor = self._continuing if ids else self._processor
                ids += processor.encode(part.replace(mark, ""))
        return ids


def _parse(data: bytes) -> ModelProto:
    model = ModelProto.FromString(data)
    # They stand after the pieces: a file cut short between two pieces still parses.
    if not (model.pieces and model.HasField("trainer_spec") and model.HasField("normalizer_spec")):
        raise ValueError("its trainer_spec or normalizer_spec is missing")
    return model


def _append_added_tokens(model: ModelProto, added: dict[str, dict[str, Any]]) -> None:
    """Tokens of a fine-tuned model that its ``tokenizer.model`` lacks; their ids follow the last piece's."""
    for i in sorted(map(int, added)):
        if i >= len(model.pieces):
            if i > len(model.pieces):
                raise ValueError(f"added_tokens_decoder: no token has id {len(model.pieces)}")
            token = added[str(i)]
            kind = _CONTROL if token.get("special") else _USER_DEFINED
            model.pieces.add(piece=token["content"], score=0.0, type=kind)


def _processor(model: ModelProto) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=model.SerializeToString())


def _ids(wanted: bool, token_id: int) -> list[int]:
    return [token_id] if wanted and token_id >= 0 else []
