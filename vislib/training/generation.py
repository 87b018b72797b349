"""Answers of a model to questions about images, generated here: greedy, one key each, asked once
(section 5.2).

The model runs in a child process, so that a notebook's kernel never initialises CUDA. A prompt is,
to the letter, what comes before an answer in training. Prompts of a batch are padded on the left; a
test proves that a batch changes no answer, which other harnesses cannot say.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from vislib.media.vision import load_config
from vislib.runs import Run, short_hash
from vislib.runs.children import child_main, emit, run_child
from vislib.runs.journal import Journal
from vislib.training.chat import MARK, Chat, RowError, model_inputs, prompt_text
from vislib.training.labels import Encoded, open_image, unlabelled
from vislib.training.models import open_trained, weights_hash

JOURNAL = "generation"


@dataclass(frozen=True)
class Question:
    """What a person asks about one image or none, and how many tokens the answer may have.

    `text` may hold `<image>` where the image goes; else it comes first.
    """

    text: str
    image_path: str | None
    max_tokens: int

    @property
    def value(self) -> str:
        """The human turn, as conversations have it."""
        placed = self.image_path is None or MARK in self.text
        return self.text if placed else f"{MARK}\n{self.text}"


def model_key(place: str, *, precision: str = "float32") -> str:
    """What names a model among the answers: a hash of its folder, or hub id with commit, and the
    precision.
    """
    # by content: the same weights in another folder, or trained again, are the same model
    if Path(place).is_dir():
        return f"{weights_hash(place)}/{precision}"
    name, _, revision = place.partition("@")
    commit = getattr(load_config(place, parameter="model"), "_commit_hash", None)
    return f"{name}@{commit or revision}/{precision}"


def question_key(model: str, question: Question) -> str:
    """The journal's key of an answer: of `model_key`, question, image bytes and the most tokens of
    the answer.
    """
    image = ""
    if question.image_path is not None:
        path = Path(question.image_path)
        image = short_hash(path.read_bytes()) if path.is_file() else "missing"
    return short_hash("greedy", model, question.value, image, str(question.max_tokens))


@dataclass(frozen=True)
class Reply:
    """What a model said, its thoughts included; None with a reason where it could not be asked."""

    text: str | None
    reason: str = ""
    detail: str = ""

    @classmethod
    def of(cls, journal: Journal, key: str) -> "Reply":
        """What the journal holds."""
        if (body := journal.get(key)) is not None:
            return cls(str(body["text"]))
        failure = journal.failure(key) or {"reason": "no_answer", "detail": ""}
        return cls(None, failure["reason"], failure["detail"])


def answers_of_models(
    run: Run,
    models: Sequence[str],
    questions: Sequence[Question],
    *,
    batch_size: int = 1,
    device: str = "auto",
    precision: str = "float32",
    progress: str = "answer",
) -> list[list[Reply]]:
    """What each of `models` (`resolve_model`'s folders or hub ids) says to each of `questions`.

    What the journal lacks is asked in one child, one by one, and journalled as it comes. A question
    whose image fails is recorded as failed and asked again by the next run. Raises InputError if a
    model cannot be opened or run; answers so far are kept.
    """
    journal = run.journal(JOURNAL)
    keys, lacking = [], dict[str, tuple[str, dict[str, Any]]]()
    for model in models:
        name = model_key(model, precision=precision)
        keys.append([question_key(name, question) for question in questions])
        for key, question in zip(keys[-1], questions, strict=True):
            # two models of the same weights, or two questions of the same words, are asked once
            if key not in lacking and journal.get(key) is None:
                lacking[key] = model, asdict(question)
    if lacking:
        how = {"device": device, "precision": precision}
        given = {"asked": lacking, "opened": how, "batch_size": batch_size}
        _ask_child(run, given, journal, progress)
    return [[Reply.of(journal, key) for key in of_model] for of_model in keys]


def _ask_child(run: Run, given: dict[str, Any], journal: Journal, progress: str) -> None:
    """Have a child answer what is `given` to its `main`, and journal what it says."""
    file = run.scratch / "questions.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    events = run_child(
        [sys.executable, "-m", __name__, str(file)],
        log=run.folder / "log.txt",
        lock=run.workers_lock,
    )
    failed = 0
    # however this ends, the child does
    with closing(events), run.progress(len(given["asked"]), progress) as shown:
        for event in events:
            if event["event"] == "failure":
                journal.fail(event["key"], event["reason"], event["detail"])
                failed += 1
            elif event["event"] == "answer":
                journal.put(event["key"], {"text": event["text"], "tokens": event["tokens"]})
            else:
                continue
            shown.update(failed=failed)


# ---- in the child


def encode(processor: Any, question: Question) -> Encoded:
    """The question as the model sees it; raises RowError."""
    images = [] if question.image_path is None else [open_image(question.image_path)]
    marks = question.value.count(MARK)
    if marks != len(images):
        raise RowError("image_count", f"{marks} {MARK} in the text, {len(images)} images")
    text = prompt_text(processor, [{"from": "human", "value": question.value}])
    return unlabelled(processor, model_inputs(processor, text, images))


def generate(
    model: Any, processor: Any, rows: Sequence[Encoded], limits: Sequence[int]
) -> list[list[int]]:
    """Token ids of the answers, greedy, each to its model's end token (left out) or to its limit in
    tokens.
    """
    import torch
    from transformers import BatchFeature, GenerationConfig

    from vislib.training.batches import collate

    ends = end_tokens(model, processor)
    batch = BatchFeature(collate(rows, processor=processor, side="left"))
    del batch["labels"]
    # pixels in the type of the weights; token ids stay whole numbers
    batch = batch.to(model.device, model.dtype)
    # a configuration of its own: a checkpoint's may sample
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max(limits),
        eos_token_id=ends,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    with torch.inference_mode():
        made = model.generate(**batch)[:, batch["input_ids"].shape[1] :].tolist()
    answers = (answer[:limit] for answer, limit in zip(made, limits, strict=True))
    return [list(takewhile(lambda token: token not in ends, answer)) for answer in answers]


def end_tokens(model: Any, processor: Any) -> list[int]:
    """Ids of the tokens that end an answer: the model's own, its tokenizer's, and the one that
    training teaches.
    """
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    # Idefics closes turns with a token that its configuration does not name as an end
    text, ((start, end),) = Chat(processor).render(turns)
    taught = processor.tokenizer(text[start:end], add_special_tokens=False)["input_ids"][-1]
    own = model.generation_config.eos_token_id
    ids = {*(own if isinstance(own, list) else [own]), processor.tokenizer.eos_token_id, taught}
    return sorted(ids - {None})


def answer_all(
    model: Any, processor: Any, asked: Sequence[tuple[str, Question]], *, batch_size: int
) -> None:
    """Emit an answer or a failure for each `(key, question)`, like ones together."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    # questions of like length waste little on padding
    alike = sorted(asked, key=lambda a: (a[1].image_path is None, a[1].max_tokens, len(a[1].text)))
    for start in range(0, len(alike), batch_size):
        rows: dict[str, tuple[Encoded, int]] = {}
        for key, question in alike[start : start + batch_size]:
            most = question.max_tokens
            try:
                row = encode(processor, question)
                # beyond its positions a model writes noise without an error
                if len(row.input_ids) + most > room:
                    said = f"{len(row.input_ids)} tokens and the answer are more than {room}"
                    raise RowError("too_long", said)
            except RowError as error:
                emit("failure", key=key, reason=error.reason, detail=error.detail)
            else:
                rows[key] = row, most
        if rows:
            made = generate(model, processor, *zip(*rows.values(), strict=True))
            for key, ids in zip(rows, made, strict=True):
                text = processor.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                emit("answer", key=key, text=text.strip(), tokens=len(ids))


def main(file: Path) -> None:
    """Answer the questions in a file that `answers_of_models` wrote, model by model."""
    given = json.loads(file.read_text(encoding="utf-8"))
    for model, part in groupby(given["asked"].items(), key=lambda item: str(item[1][0])):
        asked = [(key, Question(**question)) for key, (_, question) in part]
        opened = open_trained(model, **given["opened"])
        answer_all(*opened, asked, batch_size=given["batch_size"])
        del opened  # before the next one takes its place


if __name__ == "__main__":
    child_main(lambda: main(Path(sys.argv[1])), on_no_memory="lower batch_size")
