"""Counts are those of the original tokenizers, and sentences lose nothing."""

import json
import os
import random
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models, pre_tokenizers

from vislib import sample
from vislib.media import tokenization
from vislib.media.tokenization import count_tokens, load_tokenizer, sentences, tokens_beyond
from vislib.runs.errors import InputError

MODEL = Path(find_spec("mistral_common").submodule_search_locations[0]) / "data/tokenizer.model.v1"
TEXTS = [
    "",
    " ",
    "\n",
    "a",
    "</s>",
    "<s>",
    "<unk>",
    "<0x0A>",
    "▁",
    "▁▁ ▁",
    "<image> and <another-image>",
    "  two  spaces   three \t tab\r\n",
    "naïve café ﬁles Ⅳ ① Ａ",
    "e\u0301\u0323 \u200b\u200d\ufeff\u00a0\u3000x",
    "東京の橋は1932年に開通した。",
    "جسر أحمر فوق النهر؟",
    "लाल पुल। नदी",
    "สะพานแดง",
    "🙂🇫🇷👩‍👩‍👧 🏳️‍🌈",
    "\x00\x01\x7f",
    "\U0010ffff\ue000",
    "https://example.org/a/b.png?q=%20&x=1#y",
    "x" * 500,
    "====" * 99,
    "-" * 77 + "=" * 31,
]


@pytest.fixture(scope="module")
def original() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(MODEL))


@pytest.fixture(scope="module")
def rebuilt() -> Tokenizer:
    return load_tokenizer("mistral-common")


def differing(rebuilt: Tokenizer, original: SentencePieceProcessor, texts: list[str]) -> list[str]:
    theirs = original.encode(texts)
    ours = rebuilt.encode_batch(texts, add_special_tokens=False)
    assert count_tokens(rebuilt, texts) == [len(ids) for ids in theirs]
    return [text for text, a, b in zip(texts, ours, theirs, strict=True) if a.ids != b]


def test_the_rebuilt_model_is_sentencepiece_on_varied_text(rebuilt, original):
    runs = [c * n for c in " =-_.*#a\n\t▁" for n in range(40)]
    runs += [f"x{run}y" for run in runs]
    assert not differing(rebuilt, original, TEXTS + runs)


def test_the_rebuilt_model_is_sentencepiece_on_random_text(rebuilt, original):
    chance = random.Random(7)
    pieces = [original.id_to_piece(i) for i in range(original.get_piece_size())]
    blocks = [(0x20, 0x7F), (0x80, 0x3000), (0x3000, 0xD800), (0xE000, 0x1FFFF)]
    anywhere = [
        "".join(chr(chance.randrange(*chance.choice(blocks))) for _ in range(60))
        for _ in range(1500)
    ]
    joined = ["".join(chance.choices(pieces, k=25)) for _ in range(1500)]
    assert not differing(rebuilt, original, anywhere + joined)


def test_the_rebuilt_model_is_sentencepiece_on_the_sample(rebuilt, original):
    texts = [
        t
        for row in sample.rows()
        for t in row["texts"]
        if t and not any(0xD800 <= ord(c) < 0xE000 for c in t)
    ]
    assert len(texts) > 40
    assert not differing(rebuilt, original, texts)


@pytest.mark.skipif("VISLIB_WEBDOCS" not in os.environ, reason="VISLIB_WEBDOCS is unset")
def test_the_rebuilt_model_is_sentencepiece_on_real_pages(rebuilt, original):
    from vislib.runs import tables

    rows = tables.read_rows(Path(os.environ["VISLIB_WEBDOCS"]) / "documents.parquet", ["texts"])
    texts = ["\n\n".join(t for t in row["texts"] if t) for row in rows]
    assert len(texts) > 100
    assert not differing(rebuilt, original, texts)


def test_special_tokens_in_a_text_count_as_text(rebuilt, original, tmp_path):
    assert count_tokens(rebuilt, ["</s>"]) == [len(original.encode("</s>"))]
    assert count_tokens(rebuilt, ["</s>"])[0] > 1
    words = words_tokenizer()
    words.add_special_tokens(["</s>"])
    words.enable_truncation(2)
    words.enable_padding(length=9)
    words.save(str(tmp_path / "tokenizer.json"))
    assert count_tokens(
        load_tokenizer(str(tmp_path / "tokenizer.json")), ["a b a b", "</s>", ""]
    ) == [4, 3, 0]


def words_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def test_a_folder_a_file_and_a_hub_id_with_revision(tmp_path, monkeypatch, rebuilt):
    words_tokenizer().save(str(tmp_path / "tokenizer.json"))
    asked = []

    def download(repository, *, revision, allow_patterns):  # the network's boundary
        asked.append((repository, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    names = [str(tmp_path), str(tmp_path / "tokenizer.json"), "org/name@abc", "org/name"]
    assert [count_tokens(load_tokenizer(name), ["a a b"]) for name in names] == [[3]] * 4
    assert asked == [("org/name", "abc"), ("org/name", None)]
    (
        tmp_path / "tokenizer.json"
    ).unlink()  # as in lmsys/vicuna-7b-v1.5: the SentencePiece file alone
    (tmp_path / "tokenizer.model").write_bytes(MODEL.read_bytes())
    assert count_tokens(load_tokenizer("org/name"), TEXTS) == count_tokens(rebuilt, TEXTS)


def test_a_folder_that_only_transformers_can_read(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "bridge", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer"})
    )
    assert count_tokens(load_tokenizer(str(tmp_path)), ["Red bridges", ""]) == [3, 0]


@pytest.mark.parametrize(
    "options", [{"model_type": "unigram"}, {"normalization_rule_name": "nmt_nfkc"}]
)
def test_another_kind_of_sentencepiece_model_is_not_taken_for_llamas(tmp_path, options):
    options = {
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": True,
        "vocab_size": 400,
        **options,
    }
    lines = [t for row in sample.rows() for t in row["texts"] if t and t.isascii()]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "other"),
        minloglevel=2,
        **options,
    )
    assert tokenization._from_sentencepiece(tmp_path / "other.model") is None


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_tokenizer_that_is_none_is_named_with_the_mend(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(
        InputError, match=r"tokenizer = .*tokenizer\.json.*cannot be loaded.*give mistral-common"
    ):
        load_tokenizer(str(file))


def test_a_hub_that_cannot_be_reached_is_named_with_the_mend(monkeypatch):
    def download(*_args, **_options):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(
        InputError, match=r"'org/name' cannot be loaded \(OSError: no route to host\)"
    ):
        load_tokenizer("org/name")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        (
            "Dr. J. Smith of the U.S. team won.  Then he left.",
            ["Dr. J. Smith of the U.S. team won.  ", "Then he left."],
        ),
        ('"Really?" he asked. (Yes.) So', ['"Really?" he asked. ', "(Yes.) ", "So"]),
        (
            "It cost 3.50 in v1.2. See e.g. fig. 3 now.",
            ["It cost 3.50 in v1.2. ", "See e.g. fig. 3 now."],
        ),
        (
            "Figure 14.1. The bridge\nin 1998. Later",
            ["Figure 14.1. The bridge\n", "in 1998. Later"],
        ),
        ("It was built in 1998. Later", ["It was built in 1998. ", "Later"]),
        ("3.1.\xa0Overview\n\nText", ["3.1.\xa0Overview\n\n", "Text"]),
        ("赤い橋です。川を渡る！長い？", ["赤い橋です。", "川を渡る！", "長い？"]),
        ("「橋だ。」と言った。「次。」川", ["「橋だ。」と言った。", "「次。」", "川"]),
        ("هل هو جسر؟ نعم. أحمر", ["هل هو جسر؟ ", "نعم. ", "أحمر"]),
        ("یہ پل ہے۔ دریا", ["یہ پل ہے۔ ", "دریا"]),
        ("यह पुल है। नदी है।", ["यह पुल है। ", "नदी है।"]),
        ("no end", ["no end"]),
        ("  \n ", ["  \n "]),
        ("", []),
    ],
)
def test_sentences_of_several_scripts(text, expected):
    assert sentences(text) == expected


def test_sentences_lose_nothing():
    chance = random.Random(3)
    for _ in range(3000):
        text = "".join(
            chance.choices(" \n\t.!?…。！？؟।\"')」abAB1 Mr.\u00a0\u200b<>", k=chance.randrange(60))
        )
        found = sentences(text)
        assert "".join(found) == text
        assert all(found)


@pytest.mark.parametrize(
    "text", ["." * 80_000, " " * 80_000, "a" * 80_000 + ". B", ".)" * 99_999, "\n " * 99_999]
)
def test_long_texts_take_linear_time(text):
    started = time.perf_counter()
    assert "".join(sentences(text)) == text
    assert time.perf_counter() - started < 10


def test_a_text_that_is_surely_too_long_is_not_counted_to_its_end():
    tokenizer = load_tokenizer("mistral-common")
    text = "The harbour was opened in 1932. " * 12_000
    (whole,) = count_tokens(tokenizer, [text])
    asked = []

    class Counting:
        def encode_batch_fast(self, texts: list[str], **options: object) -> list:
            asked.extend(map(len, texts))
            return tokenizer.encode_batch_fast(texts, **options)

    assert 2000 < tokens_beyond(Counting(), text, 2000) <= whole
    assert sum(asked) < len(text) / 5
    # Near the cap nothing is guessed: the text must be counted whole.
    for most in (whole - 1, whole):
        assert tokens_beyond(tokenizer, text, most) == 0
    assert whole // 16 < tokens_beyond(tokenizer, text, whole // 16) <= whole
    assert tokens_beyond(tokenizer, "word " * 100, 3) == 0
    for odd in ("=" * 80_000, " " * 80_000, "\N{BRIDGE AT NIGHT}" * 100_000):
        beyond = tokens_beyond(tokenizer, odd, 2000)
        assert beyond == 0 or 2000 < beyond <= count_tokens(tokenizer, [odd])[0]
