"""Answers that stand written in a folder: for the sample's pictures, without a model or a key.

A file per page holds what a writer said of each of its images: the captions by kind, and the rounds
about each caption (VisCon-100K, sections 3.2 and 3.3). An answer counts only for the prompt and the
caption that it was written for: after an edit of either it is refused, never given as if it
answered.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vislib.engines import Answer, Answered, Request
from vislib.qa_format import Round, render_rounds
from vislib.runs.errors import InputError
from vislib.runs.seeding import short_hash

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
        self.folder, self._entries = folder, read_answers(folder)

    def basis(self, request: Request) -> Mapping[str, Any]:
        """The answer itself: whoever edits one is given the new one."""
        entry = self._entries.get(_place(request))
        return {"answer": short_hash(entry.text, entry.writer) if entry else ""}

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Answered:
        """Answer each request; one without an answer fails with one of `REASONS`."""
        for request in requests:
            yield request, self._answer(request)

    def _answer(self, request: Request) -> Answer:
        page, position, kind, task = _place(request)
        missing = Answer(model=self.model, status="failed")
        entry = self._entries.get((page, position, kind, task))
        if entry is None:
            where = f"image {position} of its page, {kind}, {task}"
            return replace(missing, reason="not_recorded", detail=where)
        if entry.prompt != request.prompt_sha:
            detail = f"written for {entry.prompt or 'none'}, asked with {request.prompt_sha}"
            return replace(missing, reason="recorded_for_another_prompt", detail=detail)
        if entry.caption != (about := caption_hash(request.evidence["caption"])):
            detail = f"written about {entry.caption or 'none'}, asked about {about}"
            return replace(missing, reason="recorded_for_another_caption", detail=detail)
        return Answer(text=entry.text, model=entry.writer, finish_reason="stop")


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
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: holds no recorded answers (*.yaml); mend `answers`")
    entries: dict[Place, Entry] = {}
    for file in files:
        try:
            found = dict(_entries(yaml.safe_load(file.read_text(encoding="utf-8"))))
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


def _entries(page: Mapping[str, Any]) -> Iterable[tuple[Place, Entry]]:
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


def _rounds_text(rounds: str | list[Mapping[str, Any]]) -> str:
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
