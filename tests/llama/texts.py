"""Text that tokenizers get wrong."""

import random
from collections.abc import Iterable

from pytriton_llama.llama.tokenizer import Tokenizer

AWKWARD = [
    "", " ", "\n", "  \n\n\t ", "Hello, world!", "  two  spaces  ", "0123456789 3.14 1e-5",
    "don't I'll we've",
    "naïve café — “quotes”…", "日本語のテキスト", "中文,没有空格", "한국어", "العربية", "हिन्दी",
    "👩‍👩‍👧‍👦 🇫🇷 🤷🏽‍♀️", "e\u0301 \u200b \ufeff", "\x00\x07\x7f", "\r\n", "def f(x):\n    return x ** 2\n",
    "<s></s> <think> [INST]", "a\ufffdb", "\ufdd0\uffff", "\U0010ffff", "x" * 300, "a < b <", "|im_end|>",
]  # fmt: skip
_CHARACTERS = [
    *map(chr, [*range(0x500), *range(0x600, 0x700), *range(0x900, 0xA00), *range(0x2000, 0x2100)]),
    *map(chr, [*range(0x4E00, 0x4E80), *range(0xAC00, 0xAC40), *range(0x1F300, 0x1F700)]),
    *["aeiou tnsr\n", "▁", "  ", "\t", "\n\n", "\r\n", "<s>", "</s>", "[INST]", "<0x41>", "<unk>", "<|eot_id|>"] * 40,
]


def random_text(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(AWKWARD) + draw.choice(["", " ", "\n", "é", "7"]) for _ in range(draw.randrange(1, 9)))


def random_characters(seed: int) -> str:
    """From many scripts, with what looks like control tokens between."""
    draw = random.Random(seed)
    return "".join(draw.choices(_CHARACTERS, k=draw.randrange(1, 60)))


def streamed(tok: Tokenizer, ids: Iterable[int]) -> str:
    stream = tok.stream()
    return "".join([stream.step(i) for i in ids]) + stream.flush()
