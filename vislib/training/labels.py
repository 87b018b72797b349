"""Labels: a row teaches its answers and where they end, and each row is proven to do so
(VisCon-100K, section 5).

Processors differ, and the masks that libraries offer mark wrong tokens for some of them without an
error. So answers are found in the text that the model's own template writes, followed into the text
that its processor makes of it, where images have become runs of tokens, and from there to tokens;
decoded, these must be the answers word for word. A model for which this fails is refused before
anything is trained, a row with its reason.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from vislib.media.pixels import ImageError, read_image
from vislib.runs.errors import InputError
from vislib.training.chat import MARK, Chat, RowError, Turns, model_inputs

IGNORED = -100  # the label of a token that carries no loss
PIXELS = (
    "pixel_values",
    "pixel_attention_mask",
    "image_sizes",
    "image_grid_thw",
)  # what `collate` can batch
_PROBE = (
    {"from": "human", "value": f"{MARK}\nWhat is it?"},
    {"from": "gpt", "value": "A grey square, nothing else."},
    {"from": "human", "value": "Are you sure?"},
    {"from": "gpt", "value": "Yes."},
)


@dataclass(frozen=True)
class Encoded:
    """A row as the model sees it: token ids, their labels (`IGNORED` off the answers), the
    processor's pixel tensors.

    `pixels` is empty for a row without images; `truncated` says that tokens beyond `max_length`
    were left out; `sealed`, that no token behind the first answer may attend to it.
    """

    input_ids: list[int]
    labels: list[int]
    pixels: dict[str, Any] = field(default_factory=dict)
    n_image_tokens: int = 0
    truncated: bool = False
    sealed: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Its tokens, those of images and those that carry loss; and the pixels that the vision
        tower looks at, padding to the row's largest image included.
        """
        values = self.pixels.get("pixel_values")
        return {
            "tokens": len(self.input_ids),
            "image_tokens": self.n_image_tokens,
            "supervised_tokens": sum(label != IGNORED for label in self.labels),
            "pixels": 0 if values is None else values.numel() // 3,
        }


class _Overheard:
    """A tokenizer that keeps what a processor had it tokenise: the only exact account of what
    images became.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.text, self.encoding = tokenizer, "", None

    def __call__(self, text: Any, **options: Any) -> Any:
        batch = self._tokenizer(text, **options)
        self.text = text if isinstance(text, str) else text[0]
        self.encoding = batch.encodings[0] if batch.encodings else None
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


class Encoder:
    """Makes token ids, labels and pixels of rows for one processor.

    Raises InputError if rows of this processor cannot be proven to teach their answers: shown on a
    row of its own.
    """

    def __init__(self, processor: Any, *, max_length: int) -> None:
        self.processor, self.max_length = processor, max_length
        name = f"model {processor.tokenizer.name_or_path} ({type(processor).__name__})"
        if not getattr(processor, "image_token", None):
            raise InputError(
                f"{name} has no image token; take one whose processor writes images into the text"
            )
        self.chat = Chat(processor)
        try:
            self._labelled(_PROBE, [Image.new("RGB", (28, 28), "grey")])
        except Exception as error:  # templates fail with all kinds
            raise InputError(
                f"{name}: its answers cannot be told from the rest ({type(error).__name__}:"
                f" {error}); take a model whose chat template writes turns one after the other and"
                " whose processor has a fast tokenizer"
            ) from error

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """The row of `images` (paths) and `conversations`, cut from the right at `max_length`
        tokens, never within an image's. Raises RowError.
        """
        turns, paths = row["conversations"], row["images"]
        _check(turns, len(paths))  # before images are decoded, which takes longest
        whole, before = self._labelled(turns, [open_image(path) for path in paths])
        most = self.max_length
        if before > most:
            raise RowError(
                "image_cut", f"the last image ends at token {before}, max_length is {most}"
            )
        # a row without an answer would be paid for and teach nothing
        first = next(place for place, label in enumerate(whole.labels) if label != IGNORED)
        if first >= most:
            raise RowError(
                "no_answer_left", f"the answer begins at token {first + 1}, max_length is {most}"
            )
        ids, labels = whole.input_ids[:most], whole.labels[:most]
        cut = ids != whole.input_ids
        sealed = bool(row.get("sealed"))
        return replace(whole, input_ids=ids, labels=labels, truncated=cut, sealed=sealed)

    def _labelled(self, turns: Turns, images: Sequence[Image.Image]) -> tuple[Encoded, int]:
        """The whole row, and the number of tokens up to the end of its last image."""
        text, answers = self.chat.render(turns)
        # a copy: other threads and the saved model keep the tokenizer itself
        listening = copy(self.processor)
        listening.tokenizer = ears = _Overheard(self.processor.tokenizer)
        try:
            batch = model_inputs(listening, text, images)
        except (ValueError, ArithmeticError, IndexError) as error:
            raise RowError(
                "processor_failed", f"{type(error).__name__}: {str(error).strip()[:200]}"
            ) from error
        row = unlabelled(self.processor, batch)
        unknown = set(batch) - {"input_ids", "attention_mask", *PIXELS}
        # what was not overheard cannot be followed; what is unknown would be left out of batches
        if ears.encoding is None or ears.encoding.ids != row.input_ids or unknown:
            raise InputError(
                f"its processor makes {', '.join(batch)} in a way that is not known here"
            )
        offsets, mark = ears.encoding.offsets, self.chat.image_token
        moved = _moved(text, ears.text, mark)
        for start, end in answers:
            by = moved[text.count(mark, 0, start)]
            begins = [n for n, (at, _) in enumerate(offsets) if start + by <= at < end + by]
            learnt = slice(begins[0], begins[-1] + 1) if begins else slice(0, 0)
            self._prove(text[start:end], row.input_ids, learnt)
            row.labels[learnt] = row.input_ids[learnt]
        # the last piece begins where the last image ends
        after = text.rfind(mark) + len(mark) + moved[-1]
        before = sum(end <= after for _, end in offsets) if images else 0
        return row, before

    def _prove(self, answer: str, ids: list[int], learnt: slice) -> None:
        """Raise RowError unless the tokens of `learnt` are read as the answer."""
        # read behind the token before it: a token's text may hang on its neighbour
        lead = max(learnt.start - 1, 0)
        pieces = ids[lead : learnt.start], ids[lead : learnt.stop]
        decode = partial(self.processor.tokenizer.decode, clean_up_tokenization_spaces=False)
        before, read = map(decode, pieces)
        # some tokenizers begin every text with a space
        if read not in {before + answer, f"{before} {answer}"}:
            raise RowError("not_word_for_word", f"{answer[:80]!r} is read back as {read[:120]!r}")


def unlabelled(processor: Any, batch: Mapping[str, Any]) -> Encoded:
    """What a processor made of one text (`model_inputs`), without any loss."""
    ids = batch["input_ids"][0].tolist()
    pixels = {name: batch[name] for name in PIXELS if name in batch}
    return Encoded(ids, [IGNORED] * len(ids), pixels, ids.count(processor.image_token_id))


def _moved(text: str, expanded: str, image_token: str) -> list[int]:
    """How far each piece of `text` between images has moved in `expanded`.

    Pieces are found from left to right. Between two of them stands only what images became, which
    holds no words, so the first occurrence of a piece with words is its own.
    """
    moved, start, at = list[int](), 0, 0
    for piece in text.split(image_token):
        if (found := expanded.find(piece, at)) < 0:
            raise RowError("not_word_for_word", f"the processor rewrites {piece[:80]!r}")
        moved.append(found - start)
        start, at = start + len(piece) + len(image_token), found + len(piece)
    return moved


def _check(turns: Turns, n_images: int) -> None:
    speakers = [turn["from"] for turn in turns]
    if set(speakers[::2]) != {"human"} or set(speakers[1::2]) - {"gpt"}:
        raise RowError("bad_turns", f"the turns are of {', '.join(speakers) or 'nobody'}"[:200])
    answers = [turn["value"].strip() for turn in turns[1::2]]
    if not answers:
        raise RowError("no_answer", "only a question")
    if "" in answers:  # it would teach to say nothing
        blank = f"answer {answers.index('') + 1} of {len(answers)} is blank"
        raise RowError("no_answer", blank)
    marks = sum(turn["value"].count(MARK) for turn in turns[::2])
    if marks != n_images:
        raise RowError("image_count", f"{marks} {MARK} in the questions, {n_images} images")


def open_image(path: str) -> Image.Image:
    """The picture in a file, in RGB; raises RowError, whose detail names no folder."""
    name = Path(path).name
    try:
        return read_image(path)
    except ImageError as error:
        raise RowError(f"image_{error.reason}", f"{name}: {error.detail}") from error
    except FileNotFoundError as error:
        raise RowError("image_missing", name) from error
    except (OSError, ValueError) as error:  # also a name that no file can have
        said = getattr(error, "strerror", error)  # without the path
        raise RowError("image_unreadable", f"{name[:80]!r}: {said}") from error
