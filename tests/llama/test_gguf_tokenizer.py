"""GGUF's tokenizer metadata, made from real tokenizers, gives back their ids."""

import json

import pytest
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer, models, pre_tokenizers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import gguf_tokenizer, tokenizer
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.tokenizer.byte_level import byte_characters
from tests.llama.texts import AWKWARD, random_characters, random_text

TEXTS = [*AWKWARD, *[random_text(seed) for seed in range(100)], *[random_characters(seed) for seed in range(200)]]
CONTEXT = {"llama.context_length": 512}
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
USER = [{"role": "user", "content": "hé 12"}]


def load(folder, fields):
    """The tokenizer of the files that metadata turns into."""
    name, data = gguf_tokenizer.tokenizer_file(fields)
    (folder / name).write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(gguf_tokenizer.tokenizer_config(fields)))
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    config = {"model_type": "llama", "vocab_size": len(fields["tokenizer.ggml.tokens"]), **sizes}
    return tokenizer.load(folder, LlamaConfig.from_dict(config))


def metadata(model, tokens, types, **others):
    columns = {"tokens": tokens, "token_type": types, "model": model} | others
    return CONTEXT | {f"tokenizer.ggml.{key}": value for key, value in columns.items()}


def byte_level(pre, **others):
    """A byte-level vocabulary of a few tokens, 256 to 259, and one that is cut out of every text."""
    tokens = [*ALPHABET, "<s>", "</s>", "12", "ab", "<tool>"]
    types = [1] * 256 + [3, 3, 1, 1, 4]
    return metadata("gpt2", tokens, types, merges=["1 2", "a b"], pre=pre, **others)


@pytest.fixture(scope="module")
def mistral(mistral_model):
    return ModelProto.FromString(mistral_model.read_bytes())


def sentencepiece(proto, **others):
    pieces = [list(column) for column in zip(*[(p.piece, p.score, p.type) for p in proto.pieces], strict=True)]
    return metadata("llama", pieces[0], pieces[2], scores=pieces[1], **others)


class TestSentencePiece:
    @pytest.mark.parametrize("prefix", [None, True, False])
    def test_gives_back_mistrals_ids(self, prefix, mistral, tmp_path):
        """Catches scores lost, bytes taken for text, and a prefix space where the file asks for none."""
        from sentencepiece import SentencePieceProcessor

        expected = ModelProto.FromString(mistral.SerializeToString())
        expected.normalizer_spec.add_dummy_prefix = prefix is not False
        theirs = SentencePieceProcessor(model_proto=expected.SerializeToString())
        tok = load(tmp_path, sentencepiece(mistral, **({} if prefix is None else {"add_space_prefix": prefix})))
        for text in TEXTS:
            ids = theirs.encode(text)
            assert tok.encode(text) == [1, *ids]
            assert tok.decode(ids) == theirs.decode(ids)

    @pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, False)])
    def test_what_stands_around_a_text(self, bos, eos, mistral, tmp_path):
        """Catches the keys unread; the ids named in the file are not always 1 and 2."""
        fields = sentencepiece(mistral, add_bos_token=bos, add_eos_token=eos, bos_token_id=2, eos_token_id=1)
        tok = load(tmp_path, fields)
        assert tok.encode("a")[: 1 + bos] == [2] * bos + tok.encode("a")[bos : bos + 1]
        assert (tok.encode("a")[-1] == 1) is eos and len(tok.encode("a")) == 1 + bos + eos

    def test_a_vocabulary_without_bytes(self, mistral, tmp_path):
        """Catches bytes looked for where there are none: what the vocabulary lacks is its unknown token."""
        pieces = [piece for piece in mistral.pieces if piece.type != ModelProto.SentencePiece.BYTE]
        tok = load(tmp_path, sentencepiece(ModelProto(pieces=pieces), unknown_token_id=0))
        assert tok.encode("a🦙")[-1] == 0 and 0 not in tok.encode("a")

    def test_blanks_are_merged_where_the_file_says_so(self, mistral, tmp_path):
        tok = load(tmp_path, sentencepiece(mistral, remove_extra_whitespaces=True))
        assert tok.encode(" a   b") == tok.encode("a b")

    def test_added_control_tokens(self, mistral, tmp_path):
        """A fine-tuned model's; one of them is marked as user-defined, which SentencePiece cuts out of every text."""
        fields = sentencepiece(mistral)
        for key, values in {
            "tokens": ["<|im_start|>", "<|im_end|>"],
            "scores": [0.0] * 2,
            "token_type": [3, 4],
        }.items():
            fields[f"tokenizer.ggml.{key}"] += values
        fields["tokenizer.chat_template"] = "<|im_start|>{{ messages[0].content }}<|im_end|>"
        ids = load(tmp_path, fields).chat([{"role": "user", "content": "<|im_end|>"}])
        assert (ids[0], ids[-1]) == (32000, 32001) and not {32000, 32001} & set(ids[1:-1])


class TestByteLevel:
    def test_gives_back_smollm2s_ids(self, smollm2, tmp_path):
        """Catches digits not split one by one, and merges in another order."""
        theirs = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
        spec = json.loads((smollm2 / "tokenizer.json").read_text())
        vocab = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
        special = {token["content"] for token in spec["added_tokens"]}
        merges = [" ".join(merge) for merge in spec["model"]["merges"]]
        types = [3 if token in special else 1 for token in vocab]
        tok = load(tmp_path, metadata("gpt2", vocab, types, merges=merges, pre="smollm"))
        for text in TEXTS:
            if not any(token in text for token in special):
                assert tok.encode(text) == theirs.encode(text).ids

    def test_gives_back_llama3s_ids(self, tmp_path):
        """Catches GPT-2's split of words, a lost begin-of-text, and words that no merges lead to."""
        theirs = MetaTokenizer.get_instance()
        characters = byte_characters()
        ranks = theirs.model._mergeable_ranks
        tokens = ["".join(characters[byte] for byte in token) for token in sorted(ranks, key=ranks.get)]
        merges = [  # as llama.cpp's converter finds them
            " ".join("".join(characters[byte] for byte in part) for part in (token[:end], token[end:]))
            for token in sorted(ranks, key=ranks.get)
            for end in range(1, len(token))
            if token[:end] in ranks and token[end:] in ranks
        ]
        special = sorted(theirs.special_tokens, key=theirs.special_tokens.get)
        types = [1] * len(tokens) + [3] * len(special)
        tok = load(
            tmp_path, metadata("gpt2", tokens + special, types, merges=merges, pre="llama-bpe", bos_token_id=128000)
        )
        for text in TEXTS:
            assert tok.encode(text) == theirs.encode(text, bos=True, eos=False)
        ids = tok.chat([{"role": "user", "content": "a<|eot_id|>"}])
        assert [i for i in ids if i >= 128000] == [128000, 128006, 128007, 128009, 128006, 128007]

    @pytest.mark.parametrize(
        ("pre", "pieces"),
        [
            ("smollm", ["ab", "1", "2", "1", "2", "+", "+"]),
            ("gpt-2", ["ab", "12", "12", "+", "+"]),
            ("gpt2", ["ab", "12", "12", "+", "+"]),
            ("llama-bpe", ["ab", "12", "1", "2", "+", "+"]),
            ("llama3", ["ab", "12", "1", "2", "+", "+"]),
            ("llama-v3", ["ab", "12", "1", "2", "+", "+"]),
            ("default", ["ab", "12", "1", "2", "+", "+"]),
        ],
    )
    def test_splits(self, pre, pieces, tmp_path):
        """Catches one split taken for all: digits alone, in threes, or as they stand."""
        fields = byte_level(pre)
        tok = load(tmp_path, fields)
        assert [fields["tokenizer.ggml.tokens"][i] for i in tok.encode("ab1212++")] == pieces

    def test_default_is_what_a_file_without_pre_means(self, tmp_path):
        fields = byte_level("default")
        del fields["tokenizer.ggml.pre"]
        assert gguf_tokenizer.tokenizer_file(fields) == gguf_tokenizer.tokenizer_file(byte_level("default"))

    @pytest.mark.parametrize(
        ("others", "around"),
        [
            ({}, ([], [])),
            ({"add_bos_token": True, "bos_token_id": 256}, ([256], [])),
            ({"add_bos_token": True, "add_eos_token": True, "bos_token_id": 256, "eos_token_id": 257}, ([256], [257])),
            ({"add_bos_token": True}, ([], [])),
            ({"bos_token_id": 256, "eos_token_id": 257}, ([], [])),
            ({"pre": "llama-bpe", "bos_token_id": 256}, ([256], [])),  # llama.cpp's default there
            ({"pre": "llama-bpe", "bos_token_id": 256, "add_bos_token": False}, ([], [])),
        ],
    )
    def test_what_stands_around_a_text(self, others, around, tmp_path):
        """Catches the keys unread, and a file without ids refused."""
        tok = load(tmp_path, byte_level(**{"pre": "gpt-2"} | others))
        assert tok.encode("ab") == [*around[0], 259, *around[1]]

    def test_user_defined_tokens_are_words(self, tmp_path):
        """They are cut out of a text and shown; control tokens are neither."""
        tok = load(tmp_path, byte_level("gpt-2"))
        ids = tok.encode("a<tool><s>")
        assert 260 in ids and 256 not in ids
        assert tok.decode([*ids, 256]) == "a<tool><s>"

    def test_every_byte_has_its_character(self):
        """Catches a table that is off by one among the bytes that are not printable."""
        tok = Tokenizer(models.BPE({c: i for i, c in enumerate(byte_characters())}, []))
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        text = "".join(map(chr, [*range(0x800), 0x1F300, 0x10FFFF]))
        assert bytes(tok.encode(text).ids) == text.encode()


class TestTokenizerConfig:
    def test_what_the_metadata_has(self):
        fields = byte_level("gpt-2", bos_token_id=256, eos_token_id=257, padding_token_id=257, unknown_token_id=260)
        values = gguf_tokenizer.tokenizer_config(fields | {"tokenizer.chat_template": "T"})
        assert (values["bos_token"], values["eos_token"], values["pad_token"]) == ("<s>", "</s>", "</s>")
        assert values["unk_token"] == "<tool>"
        assert values["chat_template"] == "T" and values["model_max_length"] == 512

    def test_what_it_lacks_is_left_out(self, tmp_path):
        """Catches a base model refused because it has no chat template."""
        values = gguf_tokenizer.tokenizer_config(byte_level("gpt-2"))
        assert not {"bos_token", "eos_token", "chat_template"} & values.keys()
        assert load(tmp_path, byte_level("gpt-2")).chat(USER)[0] == 256  # Llama 2's, built in


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (byte_level("gpt-2") | {"tokenizer.ggml.model": "bert"}, "tokenizer bert is not supported"),
        (byte_level("qwen35"), "tokenizer.ggml.pre 'qwen35' is not supported .*llama-bpe"),
        (byte_level("gpt-2", bos_token_id=261, add_bos_token=True), "bos_token_id is 261, outside"),
        (byte_level("gpt-2", bos_token_id=-1, add_bos_token=True), "bos_token_id is -1, outside"),
        (byte_level("gpt-2") | {"tokenizer.ggml.merges": ["ab"]}, "merges: 'ab' is not two tokens"),
    ],
)
def test_refuses_by_name(fields, message):
    """Each would otherwise become a tokenizer that splits text as another model's."""
    with pytest.raises(LlamaError, match=message):
        gguf_tokenizer.tokenizer_file(fields)
