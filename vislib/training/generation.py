"""Answers of a model to questions about images, generated here: greedy, one key each, asked once
(section 5.2).

The model runs in a child process, so that a notebook's kernel never initialises CUDA. A prompt is,
to the letter, what comes before an answer in training. Prompts of a batch are padded on the left; a
test proves that a batch changes no answer, which other harnesses cannot say.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislib.runs.children import child_main, emit, run_child
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.seeding import short_hash

if TYPE_CHECKING:
    from vislib.runs import Run
    from vislib.training.labels import Encoded

JOURNAL = "generation"
_MARK = "<image>"


@dataclass(frozen=True)
class Question:
    """What a person asks about one image or none, and how many tokens the answer may have.

    `text` may hold `<image>` where the image goes; else it comes first.
    """

    id: str
    text: str
    image_path: str | None
    max_tokens: int

    @property
    def value(self) -> str:
        """The human turn, as conversations have it."""
        placed = self.image_path is None or _MARK in self.text
        return self.text if placed else f"{_MARK}\n{self.text}"


def model_key(place: str, *, precision: str = "float32") -> str:
    """What names a model among the answers: a hash of its folder, or hub id with commit, and the
    precision.
    """
    from vislib.training.models import weights_hash

    # by content: the same weights in another folder, or trained again, are the same model
    if Path(place).is_dir():
        return f"{weights_hash(place)}/{precision}"
    from vislib.media.vision import load_config

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


def answer_to(journal: Journal, model: str, question: Question) -> str | None:
    """The text that `answers_of_models` journalled, a model's thoughts included, or None if it
    failed (`failure_of` says why).
    """
    body = journal.get(question_key(model, question))
    return None if body is None else str(body["text"])


def failure_of(journal: Journal, model: str, question: Question) -> tuple[str, str]:
    """Reason and detail of a question's last failure, empty if there was none."""
    failure = journal.failure(question_key(model, question)) or {"reason": "", "detail": ""}
    return str(failure["reason"]), str(failure["detail"])


def answers_of_models(
    run: "Run",
    models: Sequence[str],
    questions: Sequence[Question],
    *,
    batch_size: int = 1,
    device: str = "auto",
    precision: str = "float32",
    progress: str = "answer",
) -> list[str]:
    """Ask each of `models` (`resolve_model`'s folders or hub ids) what the journal lacks, in one
    child, one by one.

    Each answer is journalled as it comes. Returns each `model_key`. A question whose image fails is
    recorded as failed and asked again by the next run. Raises InputError if a model cannot be
    opened or run; answers so far are kept.
    """
    journal = run.journal(JOURNAL)
    names = [model_key(model, precision=precision) for model in models]
    how = {"device": device, "precision": precision, "batch_size": batch_size}
    lines: list[dict[str, Any]] = []
    lacking = set[str]()
    for model, name in zip(models, names, strict=True):
        # with its questions behind it, if the journal lacks any
        lines.append({"model": model, **how})
        for question in questions:
            key = question_key(name, question)
            # two models of the same weights, or two questions of the same words, are asked once
            if key not in lacking and not journal.has(key):
                lacking.add(key)
                lines.append({"key": key, **asdict(question)})
    if not lacking:
        return names
    file, failed = run.scratch / "questions.jsonl", set[str]()
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_text(text, encoding="utf-8")
    with run.progress(len(lacking), progress) as shown:

        def hear(event: dict[str, Any]) -> None:
            kind = event["event"]
            if kind == "answer":
                journal.put(event["key"], {"text": event["text"], "tokens": event["tokens"]})
            elif kind == "failure":
                journal.fail(event["key"], event["reason"], event["detail"])
                failed.add(event["key"])
            shown.update(kind in {"answer", "failure"}, failed=len(failed))

        run_child(
            [sys.executable, "-m", __name__, str(file)],
            log=run.folder / "log.txt",
            lock=run.stage.run / ".workers.lock",
            on_event=hear,
        )
    return names


# ---- in the child


def encode(processor: Any, question: Question) -> "Encoded":
    """The question as the model sees it; raises RowError."""
    from vislib.training.chat import RowError, model_inputs, prompt_text
    from vislib.training.labels import PIXELS, Encoded, open_image

    images = [] if question.image_path is None else [open_image(question.image_path)]
    marks = question.value.count(_MARK)
    if marks != len(images):
        raise RowError("image_count", f"{marks} {_MARK} in the text, {len(images)} images")
    text = prompt_text(processor, [{"from": "human", "value": question.value}])
    batch = model_inputs(processor, text, images)
    pixels = {name: batch[name] for name in PIXELS if name in batch}
    return Encoded(batch["input_ids"][0].tolist(), [], pixels)


def generate(
    model: Any, processor: Any, rows: "Sequence[Encoded]", limits: Sequence[int]
) -> list[list[int]]:
    """Token ids of the answers, greedy, each to its model's end token (left out) or to its limit in
    tokens.
    """
    import torch
    from transformers import GenerationConfig

    from vislib.training.batches import stacked_pixels

    tokenizer, ends = processor.tokenizer, end_tokens(model, processor)
    prompts = {"input_ids": [row.input_ids for row in rows]}
    batch = dict(tokenizer.pad(prompts, padding_side="left", return_tensors="pt"))
    batch |= stacked_pixels(rows)
    # pixels in the type of the weights; token ids stay whole numbers
    moved = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }
    bare = getattr(model, "get_base_model", lambda: model)()
    # a configuration of its own: a checkpoint's may sample
    bare.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max(limits),
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.inference_mode():
        made = model.generate(**moved)[:, batch["input_ids"].shape[1] :].tolist()
    return [_ended(answer[:limit], ends) for answer, limit in zip(made, limits, strict=True)]


def end_tokens(model: Any, processor: Any) -> list[int]:
    """Ids of the tokens that end an answer: the model's own, its tokenizer's, and the one that
    training teaches.
    """
    from vislib.training.chat import Chat

    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    # Idefics closes turns with a token that its configuration does not name as an end
    text, ((start, end),) = Chat(processor).render(turns)
    taught = processor.tokenizer(text[start:end], add_special_tokens=False)["input_ids"][-1]
    own = model.generation_config.eos_token_id
    ids = {*(own if isinstance(own, list) else [own]), processor.tokenizer.eos_token_id, taught}
    return sorted(ids - {None})


def _ended(answer: list[int], ends: Sequence[int]) -> list[int]:
    for place, token in enumerate(answer):
        if token in ends:
            return answer[:place]
    return answer


def answer_all(
    model: Any, processor: Any, asked: Sequence[tuple[str, Question]], *, batch_size: int
) -> None:
    """Emit an answer or a failure for each `(key, question)`, like ones together."""
    from vislib.training.chat import RowError

    room = getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    waiting: list[tuple[str, Encoded, int]] = []
    # questions of like length waste little on padding
    for key, question in sorted(
        asked, key=lambda a: (a[1].image_path is None, a[1].max_tokens, len(a[1].text))
    ):
        try:
            row = encode(processor, question)
            # beyond its positions a model writes noise without an error
            if len(row.input_ids) + question.max_tokens > room:
                raise RowError(
                    "too_long", f"{len(row.input_ids)} tokens and the answer are more than {room}"
                )
        except RowError as error:
            emit("failure", key=key, reason=error.reason, detail=error.detail)
            continue
        waiting.append((key, row, question.max_tokens))
        if len(waiting) == batch_size:
            _answer(model, processor, waiting)
            waiting = []
    if waiting:
        _answer(model, processor, waiting)


def _answer(model: Any, processor: Any, waiting: "Sequence[tuple[str, Encoded, int]]") -> None:
    keys, rows, limits = zip(*waiting, strict=True)
    for key, ids in zip(keys, generate(model, processor, rows, limits), strict=True):
        text = processor.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        emit("answer", key=key, text=text.strip(), tokens=len(ids))


def main(file: Path) -> None:
    """Answer the questions of a file: a line with a model and how to run it, then its questions,
    for each model.
    """
    from vislib.training.models import open_trained

    asked: list[tuple[dict[str, Any], list[tuple[str, Question]]]] = []
    # split by hand: str.splitlines also cuts at characters that questions may hold
    for line in map(json.loads, file.read_text(encoding="utf-8").split("\n")[:-1]):
        if "model" in line:
            asked.append((line, []))
            continue
        key, question = line.pop("key"), Question(**line)
        if question.max_tokens < 1:
            raise InputError(
                f"question {question.id}: max_tokens is {question.max_tokens}; it must be 1 or more"
            )
        asked[-1][1].append((key, question))
    for head, rows in asked:
        if not rows:  # all its answers are there
            continue
        device, precision = head["device"], head["precision"]
        opened = open_trained(head["model"], device=device, precision=precision, merge=True)
        answer_all(*opened, rows, batch_size=head["batch_size"])
        del opened  # before the next one takes its place


if __name__ == "__main__":
    child_main(lambda: main(Path(sys.argv[1])), on_no_memory="lower batch_size")
