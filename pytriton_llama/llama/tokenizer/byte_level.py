"""Byte-level BPE (GPT-2, Llama 3, SmolLM2) as a ``tokenizers`` tokenizer, for vocabularies in other forms."""

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

# Llama 3's split of a text into words, as published in Meta's llama-models.
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As published in OpenAI's gpt-2 (encoder.py).
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _splits(*patterns: str) -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


# By the names that llama.cpp gives them; "default" is what it takes where a file names none.
SPLITS = {
    "default": pre_tokenizers.Sequence(
        [*_splits(r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"), _BYTES]
    ),
    "gpt-2": _GPT2,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2]),
    "llama-bpe": pre_tokenizers.Sequence([*_splits(_LLAMA3_WORDS), _BYTES]),
}


def byte_level_bpe(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    split: str,
    added: Sequence[AddedToken],
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Tokenizer:
    """A tokenizer of the words that ``SPLITS[split]`` makes.

    ``added`` tokens that ``vocab`` lacks get the next ids. ``before`` and ``after`` are the control tokens around
    every text.
    """
    # Llama 3 takes a word that is a token as it is, even where no merges lead to it.
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=split == "llama-bpe"))
    tokenizer.pre_tokenizer = SPLITS[split]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    if before or after:
        ids = [(token, tokenizer.token_to_id(token)) for token in {*before, *after}]
        tokenizer.post_processor = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)
    return tokenizer


def byte_characters() -> list[str]:
    """The printable character that stands for each byte: itself, or one after U+00FF where it is not printable."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    others = iter(character for character in alphabet if ord(character) > 255)
    return [chr(byte) if chr(byte) in alphabet else next(others) for byte in range(256)]
