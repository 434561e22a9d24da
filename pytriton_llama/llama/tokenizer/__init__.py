"""Text to token ids and back, and chats to prompts, from whichever file a checkpoint has.

What a user types never becomes a control token: ``<|im_end|>`` inside a prompt or a message is text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.tokenizer import tiktoken_tokenizer
from pytriton_llama.llama.tokenizer.chat_template import ChatTemplate
from pytriton_llama.llama.tokenizer.detokenizer import Stream
from pytriton_llama.llama.tokenizer.json_tokenizer import JsonTokenizer
from pytriton_llama.llama.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from pytriton_llama.llama.values import read_json

_MAX_BYTES = 1 << 25  # of a tokenizer.model; the largest known have four million


class Tokenizer(Protocol):
    size: int  # ids are smaller

    def encode(self, text: str) -> list[int]:
        """Ids, with what the checkpoint puts around a text (begin-of-text); control tokens stay text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text without control tokens; bytes that are no UTF-8 become U+FFFD."""

    def stream(self) -> Stream:
        """A decoder that takes one id after another."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of the prompt for the assistant's next turn; a message has a ``role`` and a ``content``."""


def load(folder: str | Path, config: LlamaConfig) -> Tokenizer:
    """The tokenizer of a checkpoint's folder. Raises :class:`LlamaError` where it is missing or broken.

    Reads ``tokenizer.json``, else ``tokenizer.model`` in SentencePiece's form or in Meta's of Llama 3.
    """
    folder = Path(folder)
    file = next((folder / name for name in ("tokenizer.json", "tokenizer.model") if (folder / name).is_file()), None)
    if file is None:
        raise LlamaError(f"{folder}: holds neither tokenizer.json nor tokenizer.model")
    values = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    template = ChatTemplate.from_folder(folder, values)
    if file.name == "tokenizer.json":
        tokenizer: Tokenizer = JsonTokenizer(read_json(file), template, file)
    else:
        tokenizer = _from_model(file, template, values, config)
    if tokenizer.size > config.vocab_size:
        raise LlamaError(f"{file}: {tokenizer.size} tokens, but the config's vocab_size is {config.vocab_size}")
    return tokenizer


def _from_model(file: Path, template: ChatTemplate, values: dict[str, Any], config: LlamaConfig) -> Tokenizer:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise LlamaError(f"{file}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise LlamaError(f"{file}: larger than {_MAX_BYTES} bytes")
    if not tiktoken_tokenizer.matches(data):
        return SentencePieceTokenizer(data, template, values, file)
    tokenizer = JsonTokenizer(tiktoken_tokenizer.spec(data, file), template, file)
    if tokenizer.size != config.vocab_size:  # the ids of control tokens follow from the number of lines
        raise LlamaError(f"{file}: {tokenizer.size} tokens, but the config's vocab_size is {config.vocab_size}")
    return tokenizer
