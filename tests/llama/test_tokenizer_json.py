"""``tokenizer.json`` of other forms than SmolLM2's, and of hostile ones."""

import json
import os
import random

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from pytriton_llama.errors import LlamaError
from tests.llama.small_tokenizer import USER, load, save
from tests.llama.texts import streamed


class TestOtherTokenizers:
    def test_bos_of_the_post_processor(self, tmp_path):
        """Catches a lost bos (Llama 3 answers nonsense without), and a doubled one in chats."""
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
        tok = load(save(tmp_path, "{{ bos_token }}{{ messages[0].content }}", post_processor=template))
        assert tok.encode("a") == tok.chat(USER) == [256, *tok.encode("a")[1:]]
        assert tok.chat([{"role": "user", "content": "<s>"}])[1:] == tok.encode("<s>")[1:] != [256]

    def test_control_tokens_that_the_file_calls_ordinary(self, tmp_path):
        """DeepSeek's ``<｜User｜>`` is not marked special: nobody may type it either, and it is shown."""
        folder = save(tmp_path, "<U>{{ messages[0].content }}<A>", ordinary=("<U>", "<A>", "ab"))
        tok = load(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        user, assistant, word = (theirs.convert_tokens_to_ids(name) for name in ("<U>", "<A>", "ab"))
        ids = tok.chat([{"role": "user", "content": "<A>ab<U>"}])
        assert [ids[0], ids[-1]] == [user, assistant] and not {user, assistant} & set(ids[1:-1])
        assert word in ids  # an added word that no template writes stays a word
        assert tok.decode(ids) == streamed(tok, ids) == "<U><A>ab<U><A>"

    def test_added_blanks_stay_words(self, tmp_path):
        """Every template writes them. Catches a typed newline kept from its own token, as a control token is."""
        tok = load(save(tmp_path, "{{ messages[0].content }}\nb", ordinary=("\n",)))
        assert tok.encode("a\nb")[1] == 258

    def test_two_messages_cannot_join_into_a_control_token(self, tmp_path):
        """Catches messages marked one by one, where a template sets them side by side, trimmed."""
        tok = load(save(tmp_path, "{% for m in messages %}{{ m.content | trim }}{% endfor %}"))
        for first, second in (("<", "/s>"), ("</s", ">"), ("< ", " s>"), ("<s", ">")):
            ids = tok.chat([{"role": "user", "content": first}, {"role": "user", "content": second}])
            assert not {256, 257} & set(ids)

    def test_a_control_token_that_begins_another(self, tmp_path):
        """Catches the shorter one where the template writes the longer."""
        tok = load(save(tmp_path, "<t>2{{ messages[0].content }}", special=("<t>", "<t>2")))
        assert tok.chat(USER) == [257, *tok.encode("a")]

    def test_merges_do_not_build_control_tokens(self, tmp_path):
        """A vocabulary taken from SentencePiece can hold merges that spell ``</s>``, or that go on from it. Catches a
        file with these refused."""
        save(tmp_path)
        spec = json.loads((tmp_path / "tokenizer.json").read_text())
        vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
        for piece in ("</", "s>"):
            vocab[piece] = len(vocab) + 2
            merges.append(list(piece))
        vocab["</s>a"] = len(vocab) + 2
        merges += [["</", "s>"], ["</s>", "a"]]
        vocab |= {"<s>": 256, "</s>": 257}
        spec["pre_tokenizer"] = None
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
        assert 257 not in load(tmp_path).encode("</s>")

    @pytest.mark.parametrize("scheme", ["first", "always"])
    def test_metaspace_as_transformers(self, scheme, tmp_path):
        """Llama 2's form. Catches pieces encoded one by one, each with a prefix space of its own."""
        vocab = {"<unk>": 0} | {f"<0x{b:02X}>": b + 1 for b in range(256)} | {"▁": 257, "a": 258, "b": 259, "▁a": 260}
        tok = tokenizers.Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        tok.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tok.add_special_tokens(["<unk>", "<s>", "</s>"])
        save(tmp_path, "<s>a {{ messages[0].content }}</s>")
        tok.save(str(tmp_path / "tokenizer.json"))
        mine, theirs = load(tmp_path), transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
        for text in ("a b", " a", "é日 a", "🦙", "b  a"):
            assert mine.encode(text) == theirs.encode(text)
            assert streamed(mine, mine.encode(text)) == mine.decode(mine.encode(text))
            messages = [{"role": "user", "content": text}]
            assert mine.chat(messages) == theirs.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        bytes_ = [random.Random(seed).choices(range(1, 262), k=12) for seed in range(200)]
        for ids in bytes_:
            assert streamed(mine, ids) == mine.decode(ids)

    def test_text_that_the_vocabulary_lacks(self, tmp_path):
        """Catches the unknown token lost together with its name: the text would be left out."""
        tok = tokenizers.Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"))
        tok.add_special_tokens(["<unk>"])
        tok.save(str(save(tmp_path) / "tokenizer.json"))
        assert load(tmp_path).encode("aéa") == [1, 0, 1]

    def test_settings_of_a_training_run_are_dropped(self, tmp_path):
        """A file saved with truncation or padding on would cut or fill every prompt."""
        save(tmp_path, normalizer=normalizers.NFC())
        tok = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        tok.enable_truncation(3)
        tok.enable_padding(length=8)
        tok.save(str(tmp_path / "tokenizer.json"))
        assert len(load(tmp_path).encode("abcde")) == 5
        assert len(load(tmp_path).encode("a")) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"version": "1.0"}', '{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "\x00"],
)
def test_refuses_broken_files(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(LlamaError, match=r"tokenizer\.json"):
        load(tmp_path)


def change(folder, how):
    """Do ``how`` to what the file holds."""
    spec = json.loads((folder / "tokenizer.json").read_text())
    how(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))


def hostile(kind):
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    sequence = {"type": "Sequence", "normalizers": [replace] * 40}
    special = [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": special, "pair": special, "special_tokens": {}}
    backtracks = {"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": False}
    return {
        "doubling": {"normalizer": sequence},
        "nested": {"normalizer": {"type": "Sequence", "normalizers": [sequence]}},
        "decoder": {"decoder": {"type": "Sequence", "decoders": [replace] * 40}},
        "unknown token": {"post_processor": template},
        "backtracking": {"pre_tokenizer": backtracks},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("doubling", "its normalizer makes a text more than 1000 times as long"),
        ("nested", "its normalizer makes a text more than 1000 times as long"),
        ("decoder", "its decoder makes a text more than 1000 times as long"),
        ("unknown token", "no entry found"),
    ],
)
def test_refuses_hostile_files(kind, message, tmp_path):
    """Catches memory filled by one letter, and a panic that ends the program at the first prompt."""
    change(save(tmp_path), lambda spec: spec.update(hostile(kind)))
    with pytest.raises(LlamaError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_backtracks_without_end(tmp_path):
    """Catches the regular expressions' own limit, a panic, left to end the program."""
    change(save(tmp_path), lambda spec: spec.update(hostile("backtracking")))
    with pytest.raises(LlamaError, match="retry-limit"):
        load(tmp_path).encode("a" * 99)


def test_refuses_a_vocabulary_larger_than_the_models(tmp_path):
    """Its last ids would read past the embedding: on a GPU, somebody else's memory. Catches tokens counted where ids
    have gaps."""
    assert load(save(tmp_path), vocab_size=258)
    with pytest.raises(LlamaError, match="258 tokens, but the config's vocab_size is 257"):
        load(tmp_path, vocab_size=257)
    change(tmp_path, lambda spec: spec["model"]["vocab"].update(a=398))
    assert load(tmp_path, vocab_size=399)
    with pytest.raises(LlamaError, match="399 tokens, but the config's vocab_size is 398"):
        load(tmp_path, vocab_size=398)


def test_refuses_control_tokens_of_two_ids(tmp_path):
    """The vocabulary's next one, and another that the file declares. Catches a prompt with somebody else's token."""
    change(save(tmp_path), lambda spec: spec["added_tokens"][1].update(id=300))
    with pytest.raises(LlamaError, match="id of control token '</s>' is not the one the file declares"):
        load(tmp_path)


def test_refuses_a_folder_without(tmp_path):
    """Catches a pipe in the file's place, which nobody would ever write to."""
    os.mkfifo(tmp_path / "tokenizer.model")
    with pytest.raises(LlamaError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load(tmp_path)
