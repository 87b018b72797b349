"""Exact token counts by any Hugging Face tokenizer, and sentences of several scripts (VisCon-100K,
sections 3.1, 3.2).

The paper's cap counts tokens of Vicuna-7b, whose tokenizer is a SentencePiece model with byte
fallback. The usual conversion of such models to fast tokenizers changes some counts, so they are
rebuilt here from the scores of their pieces and held against the original. Page text is data: a
literal `</s>` counts as the characters it is made of, never as one special token.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError

_LONG = 2**16  # characters: a shorter text is counted whole, which takes 15 ms at most
_SEAM = 64  # tokens by which a count may change where a text is cut; seldom one
_PROBE = (
    "A  naïve\tcafé,   12,345 ﬁles\n\n東京 ① Ａ e\u0301 مرحبا 🙂🇫🇷 <s></s> ▁ <0x0A> ==== "
    " x\u200b\ufeff  "
)


def load_tokenizer(name: str) -> Any:
    """The `tokenizers.Tokenizer` called `name`, set to count whole texts, special tokens as plain
    text.

    `name`: "mistral-common" (the SentencePiece model in that package), a `tokenizer.json` or
    SentencePiece file, a folder that holds one, or a hub id with an optional revision,
    `org/name@revision`. Raises InputError if there is none or it cannot be read.
    """
    try:
        tokenizer = _opened(_place(name))
    except Exception as error:  # the tokenizers library raises plain Exception
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"tokenizer = {name!r} cannot be loaded ({type(error).__name__}: {first}); give"
            " mistral-common, a tokenizer.json, a folder that holds one, or a hub id such as"
            " org/name@revision"
        ) from error
    # A file may say that texts are cut or padded to its model's length: counts would be wrong.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def count_tokens(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    """Number of tokens of each text, without added special tokens."""
    # One at a time: an encoding takes some 60 bytes a character, and a batch is no faster.
    encode = partial(tokenizer.encode_batch_fast, add_special_tokens=False)
    return [len(encode([text])[0]) for text in texts]


def tokens_beyond(tokenizer: Any, text: str, most: int) -> int:
    """A number above `most` of which `text` surely has more tokens; 0 where it must be counted
    whole.

    A page of 20 MB need not be tokenised to see that it is too long: its beginning is, up to a
    space, and twice as much again until `most` is passed by more than the cut can change.
    """
    size = max(_LONG, 8 * most)
    while size < len(text):
        end = text.rfind(" ", size - 1000, size)
        (counted,) = count_tokens(tokenizer, [text[: end if end > 0 else size]])
        if counted > most + _SEAM:
            return counted - _SEAM
        size *= 2
    return 0


def _place(name: str) -> Path:
    """The file or folder of the tokenizer called `name`, downloaded if it is the hub's."""
    if not name:
        raise ValueError("it is empty")
    if name == "mistral-common":  # its files alone: to import the package takes a second
        found = distribution(name).locate_file("mistral_common/data/tokenizer.model.v1")
        return Path(str(found))
    path = Path(name).expanduser()
    if not path.exists():
        from huggingface_hub import snapshot_download

        repository, _, revision = name.partition("@")
        files = ["*.json", "tokenizer*", "*.model", "vocab*", "merges.txt"]
        path = Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    # A folder may hold both: the converted file is what its authors trained or checked with.
    held = (path / "tokenizer.json", path / "tokenizer.model", path)
    return next(place for place in held if place.exists())


def _opened(path: Path) -> Any:
    from tokenizers import Tokenizer

    if path.suffix == ".json":
        return Tokenizer.from_file(str(path))
    if path.is_file() and (rebuilt := _from_sentencepiece(path)):
        return rebuilt
    from transformers import AutoTokenizer

    folder = path.parent if path.is_file() else path
    return AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer


def _from_sentencepiece(path: Path) -> Any:
    """LLaMA's kind of SentencePiece model as a BPE whose merges follow the scores; None for another
    kind.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, models, normalizers

    model = SentencePieceProcessor(model_file=str(path))
    vocabulary = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    special = (model.is_byte, model.is_control, model.is_unknown, model.is_unused)
    # Bytes, marks and unknowns are never merged out of other pieces.
    plain = {
        piece: model.get_score(i)
        for piece, i in vocabulary.items()
        if not any(test(i) for test in special)
    }
    # SentencePiece merges the pair whose piece scores highest; a BPE takes merges in their order.
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(plain, key=plain.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in plain and piece[cut:] in plain
    ]
    unknown = model.id_to_piece(model.unk_id())
    bpe = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # A model of another kind, or with other rules for its text, shows on a text of odd characters.
    same = tokenizer.encode(_PROBE, add_special_tokens=False).ids == model.encode(_PROBE)
    return tokenizer if same else None


# A newline ends a sentence: in page text it stands for a block or a <br>. Possessive runs keep long
# text linear.
_CLOSERS = "\"'”’»)\\]）」』】》〉"
_END = re.compile(
    rf"(?<![.!?…])(?P<latin>[.!?…]++)[{_CLOSERS}]*+(?P<gap>\s++)"
    # a quotation may go on: 「…。」と
    rf"|[。！？｡]++(?:(?![{_CLOSERS}])|[{_CLOSERS}]++(?![ぁ-ん]))\s*+"
    rf"|[؟۔।॥።፧။។։]++[{_CLOSERS}]*+\s++"
    r"|\n\s*+"
)
_WORDS = (
    "mr mrs ms dr prof st vs cf fig figs eq eqs sec ch vol pp p ed eds al approx ca jr sr gen col"
    " lt sgt capt rev gov sen rep mt ft dept univ nr bd bzw z.b d.h"
)
_ABBREVIATIONS = frozenset(_WORDS.split())
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[A-ZÀ-ÞА-Я]|[a-z](?:\.[a-z])+")


def sentences(text: str) -> list[str]:
    """Cut `text` at the ends of sentences and lines. Each keeps the white space behind it: joined,
    they are `text`.
    """
    cuts = [*_cuts(text), len(text)]
    return [text[a:b] for a, b in zip([0, *cuts], cuts, strict=False) if a < b]


def _cuts(text: str) -> Iterator[int]:
    for match in _END.finditer(text):
        end = match.end()
        inside = "\n" not in (match["gap"] or "\n")
        # A small letter goes on with the sentence: "etc. and so on", "... or not".
        if inside and (
            text[end : end + 1].islower()
            or (match["latin"] == "." and _abbreviated(text, match.start()))
        ):
            continue
        yield end


def _abbreviated(text: str, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation, to initials or to a number as in
    `Figure 3.1.`
    """
    before = text[max(0, stop - 32) : stop]
    words = before.rpartition("\n")[2].split() or [""]
    word = words[-1].lstrip("([\"'“‘«")
    # "3.1. Results": the number of a heading, and not the end of a sentence.
    heading = len(words) <= 2 and ("\n" in before or stop <= 32)
    numbered = heading and word.replace(".", "").isdigit()
    return numbered or word.lower() in _ABBREVIATIONS or _INITIALS.fullmatch(word) is not None
