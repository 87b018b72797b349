"""Answers that stand written in a folder: for the sample's pictures, without a model or a key.

A file per page holds what a writer said of each of its images: the captions by kind, and the rounds
about each caption (VisCon-100K, sections 3.2 and 3.3). An answer counts only for the prompt and the
caption that it was written for: after an edit of either it is refused, never given as if it
answered.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from vislib.engines import Answer, Answered, Json, Request
from vislib.qa_format import Round, render_rounds
from vislib.runs import InputError, short_hash

# Reasons of a request without an answer: nothing failed, and the next one may have one.
REASONS = {
    "not_recorded": "nobody wrote an answer about this image, of this kind",
    "recorded_for_another_prompt": "the answer was written for a prompt that has changed since",
    "recorded_for_another_caption": "the questions were written about another caption",
}
Place = tuple[str, int, str, str]  # page URL, position on the page, kind, task


@dataclass(frozen=True)
class Entry:
    """One answer: its text as a model would send it, who wrote it, and what it was written for."""

    text: str
    writer: str
    prompt: str  # `prompt_sha` of the template
    caption: str  # hash of the caption that is asked about, "" of a caption


class Recorded:
    """Answers from a folder, found by page URL, position, kind and task."""

    name = journal = model = "recorded"

    def __init__(self, folder: Path) -> None:
        self._entries = read_answers(folder)

    def basis(self, request: Request) -> Json:
        """The answer itself: whoever edits one is given the new one."""
        entry = self._entries.get(_place(request))
        return {"answer": short_hash(entry.text, entry.writer) if entry else ""}

    def answer(self, requests: Iterable[Request]) -> Answered:
        """Answer each request; one without an answer fails with one of `REASONS`."""
        for request in requests:
            yield request, self._answer(request)

    def _answer(self, request: Request) -> Answer:
        place = _place(request)
        entry = self._entries.get(place)
        about = caption_hash(request.evidence["caption"])
        if entry is None:
            reason, detail = "not_recorded", "image {1} of its page, {2}, {3}".format(*place)
        elif entry.prompt != request.prompt_sha:
            reason = "recorded_for_another_prompt"
            detail = f"written for {entry.prompt or 'none'}, asked with {request.prompt_sha}"
        elif entry.caption != about:
            reason = "recorded_for_another_caption"
            detail = f"written about {entry.caption or 'none'}, asked about {about}"
        else:
            return Answer(text=entry.text, model=entry.writer, finish_reason="stop")
        return Answer(model=self.model, status="failed", reason=reason, detail=detail)


def caption_hash(caption: str) -> str:
    """What an answer carries of the caption that it is about; "" of no caption."""
    return short_hash(caption) if caption else ""


def read_answers(folder: Path) -> dict[Place, Entry]:
    """All answers in the files `*.yaml` of a folder.

    A page's file names `page`, `writer`, `date`, the hashes of its `prompts` by kind or task, and
    its `images`: each with its `image` (position on the page) and, by kind, `caption`, `about` (the
    hash of that caption), `free_form` and `multiple_choice`. Rounds are lists of `ask`, `options`
    and `answer`; a text stands for itself. Raises InputError that names the file and the fault.
    """
    if not (files := sorted(folder.glob("*.yaml"))):
        raise InputError(f"{folder}: holds no recorded answers (*.yaml); mend `answers`")
    entries: dict[Place, Entry] = {}
    for file in files:
        try:
            found = dict(_entries(yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file}: not readable as YAML ({error})") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}: not in the form of recorded answers ({type(error).__name__}: {error})"
            ) from error
        if twice := sorted(found.keys() & entries.keys()):
            raise InputError(f"{file}: {twice[0]} is answered in another file too; keep one")
        entries |= found
    return entries


def _entries(page: Json) -> Iterable[tuple[Place, Entry]]:
    writer, prompts = f"{page['writer']}, {page['date']}", page["prompts"]
    for image in page["images"]:
        for kind in [name for name in image if name not in ("image", "file")]:
            given = image[kind]
            place = (page["page"], image["image"], kind)
            yield (*place, "caption"), Entry(given["caption"], writer, prompts[kind], "")
            for task in ("free_form", "multiple_choice"):
                if task in given:
                    text = _rounds_text(given[task])
                    yield (*place, task), Entry(text, writer, prompts[task], given["about"])


def _rounds_text(rounds: str | list[Json]) -> str:
    """Rounds in the canonical format; a text, as of a planted fault, is left as it is."""
    if isinstance(rounds, str):
        return rounds
    return render_rounds(
        Round(entry["ask"], tuple(entry.get("options", ())), entry["answer"]) for entry in rounds
    )


def _place(request: Request) -> Place:
    sample = request.evidence["sample"]
    return (
        sample["page_url"],
        sample["image_index"],
        request.evidence["kind"],
        request.evidence["task"],
    )
