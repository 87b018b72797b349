"""How a model writes conversations: its own chat template, with the place of every answer
(VisCon-100K, section 5).

Training and generation read the same text, so that a prompt is, to the letter, what comes before an
answer in training.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

MARK = "<image>"  # in a human turn: the place of an image
Turns = Sequence[Mapping[str, str]]
_ROLES = {"human": "user", "gpt": "assistant"}
# Line breaks behind the images that a turn begins with, and before those that it ends with.
_SET_OFF = re.compile(rf"(\A\s*(?:{MARK}\s*)*{MARK})\n+|\n+((?:{MARK}\s*)+\Z)")
_UNSEEN = 2**-8  # less than half a grey level, and the same number in every precision


class RowError(ValueError):
    """A row that cannot be learnt from: `reason` is one of `REASONS`, `detail` says what was
    found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Chat:
    """How one model writes conversations: its chat template, with the places of the answers."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.image_token = str(getattr(processor, "image_token", ""))

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        added = [
            token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special
        ]
        words = {word for word in (MARK, self.image_token, *added) if len(word) > 2}
        # of two that begin alike the longer one
        return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))

    def render(
        self, turns: Turns, *, generating: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of `turns`, and from where to where each answer goes, its end token included.

        Words of `turns` that the tokenizer would read as special tokens are written with ‹ ›. A
        template that closes an answer with white space alone, as LLaVA's on the hub does, gets the
        tokenizer's end token there.
        `generating`: the text ends where the next answer begins. Raises RowError not_word_for_word.
        """
        messages: list[dict[str, Any]] = [
            {"role": _ROLES[turn["from"]], "content": list(self._parts(turn))} for turn in turns
        ]
        text, written = "", ""
        answers: list[tuple[int, int]] = []
        for count, message in enumerate(messages):
            if message["role"] == "user":
                continue
            # the template is asked twice: what it adds for the answer is the answer's own
            asked = self._templated(messages[:count], written, generating=True)
            whole = self._templated(messages[: count + 1], asked, generating=False)
            spoken, after = self._closed(whole[len(asked) :], message["content"][0]["text"])
            start = len(text) + len(asked) - len(written)
            answers.append((start, start + len(spoken)))
            text += asked[len(written) :] + spoken + after
            written = whole
        return (
            text + self._templated(messages, written, generating=generating)[len(written) :],
            answers,
        )

    def _parts(self, turn: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """A turn's images and texts; line breaks that only set images off from the text are the
        template's to write.
        """
        pieces = [turn["value"]]
        if turn["from"] == "human":
            pieces = _SET_OFF.sub(r"\1\2", turn["value"]).split(MARK)
        for number, piece in enumerate(pieces):
            if number:  # before every piece but the first stood a mark
                yield {"type": "image"}
            if piece.strip() or len(pieces) == 1:
                # a page that says <image> or </s> must not show one, nor end an answer
                text = self._specials.sub(lambda word: f"‹{word[0][1:-1]}›", piece)
                yield {"type": "text", "text": text}

    def _templated(self, messages: Sequence[Any], begins: str, *, generating: bool) -> str:
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generating
        )
        if not text.startswith(begins):  # turns would look different in training and in generation
            raise RowError(
                "not_word_for_word",
                "the chat template writes earlier turns anew when later ones come",
            )
        return str(text)

    def _closed(self, written: str, answer: str) -> tuple[str, str]:
        """The answer with what leads to it and its end token, and what the template writes behind
        that.
        """
        # the end is looked for in what the template wrote, never assumed
        told = answer if answer in written else answer.strip()  # some templates trim
        lead, found, rest = written.partition(told)
        if not found or lead.strip():
            raise RowError(
                "not_word_for_word",
                f"for {answer[:40]!r} the chat template writes {written[:80]!r}",
            )
        end = self._specials.search(rest)
        if end and not rest[: end.start()].strip():
            return lead + told + rest[: end.end()], rest[end.end() :]
        if rest.strip() or not self.tokenizer.eos_token:
            raise RowError(
                "not_word_for_word",
                f"the chat template ends an answer with {rest[:40]!r}: no end token",
            )
        return lead + told + self.tokenizer.eos_token, ""


def prompt_text(processor: Any, turns: Turns) -> str:
    """The chat text of `turns` up to where the next answer begins: what comes before it in
    training, to the letter.
    """
    return Chat(processor).render(turns, generating=True)[0]


def model_inputs(processor: Any, text: str, images: Sequence[Image.Image]) -> dict[str, Any]:
    """The model's tensors for one chat text and its RGB images, as the processor makes them, in a
    batch of one.

    The beginning token is not doubled if the template wrote it. An image whose normalised values
    are all zero, which Idefics2 and Idefics3 take for padding and leave out, gets one value that no
    eye could see.
    """
    # a second one would be read as the end of a text before
    begun = bool(processor.tokenizer.bos_token) and text.startswith(processor.tokenizer.bos_token)
    batch = dict(
        processor(
            text=[text],
            images=list(images) or None,
            return_tensors="pt",
            add_special_tokens=not begun,
        )
    )
    if "pixel_attention_mask" in batch:
        batch["pixel_values"][..., 0, 0, 0][(batch["pixel_values"] == 0).flatten(-3).all(-1)] = (
            _UNSEEN
        )
    return batch
