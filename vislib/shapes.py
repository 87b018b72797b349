"""Stage 00: the drawn shapes of easy-VQA as data to learn from and as a benchmark that tiny models
can learn.

easy-VQA 1.0 (Victor Zhou, MIT, the package easy-vqa) has 5,000 pictures of 64 px, a shape on a pale
ground each, and 48,248 questions with 13 answers. Neither paper has it: it is here because models
of a few hundred thousand weights learn it in 160 steps, so that a comparison of arms can be seen to
tell a model that looks from one that does not. What a question's text alone makes likely is right
on 67 % of its test split, so the control is an arm whose pictures are blank: the same rows through
another ledger.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vislib.fetching.links import store
from vislib.media.pixels import verify
from vislib.qa_options import ALPHABET, lettered
from vislib.runs import Run, choose, short_hash
from vislib.runs.tables import Row

OPTIONS = {  # the 13 answers by type of question, in the order in which their letters stand
    "colour": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
    "yes_no": ("no", "yes"),
}
# Short: a tiny model reads every word of it at full price.
_ASK_LETTER = "The letter alone."
_GROUND = (240, 240, 240)  # as pale as theirs
Asked = tuple[str, str]  # a question of the package and its answer


def load_shapes(run: Run) -> None:
    """Write the conversations `questions` of both splits, the ledger `images` of their pictures,
    and the ledger `blank`, which has a plain picture in the place of each.

    `train_pictures` have `questions_per_picture` questions, the first of the types in `OPTIONS`
    that they have; `test_pictures` all of theirs, in the package's own proportions.
    """
    p = run.params
    grey = Image.new("RGB", (64, 64), _GROUND)
    stream = io.BytesIO()
    grey.save(stream, "PNG")
    blank = _stored(stream.getvalue(), run.data)
    # Of a split: its pictures, and the questions of each (0: all).
    sizes = {
        "train": (p.train_pictures, p.questions_per_picture),
        "test": (p.test_pictures, 0),
    }
    with run.output() as output:
        for split, (number, most) in sizes.items():
            pictures = load_pictures(split)
            for file in choose(pictures, number, run.seed, key=lambda file: file.name):
                address = f"easy-vqa/{split}/{file.name}"
                picture = {"image_url": address} | _stored(file.read_bytes(), run.data)
                output.write("images", picture)
                output.write("blank", picture | {"path": blank["path"]})
                asked = telling(pictures[file], most, run.seed, address)
                output.take("question", len(asked))
                output.keep("question", len(asked))
                writer = output.writer("conversations", path="questions", stem=split)
                writer.write(conversation(asked, picture["image_id"]))


def load_pictures(split: str) -> dict[Path, list[Asked]]:
    """The package's pictures of `train` or `test` in order of number, each with all that is asked
    about it.
    """
    import easy_vqa

    files = getattr(easy_vqa, f"get_{split}_image_paths")()
    texts, answers, numbers = getattr(easy_vqa, f"get_{split}_questions")()
    found: dict[int, list[Asked]] = {}
    for number in sorted(files):
        found[number] = []
    for text, answer, number in zip(texts, answers, numbers, strict=True):
        found[number].append((text, answer))
    return {Path(files[number]): asked for number, asked in found.items()}


def type_of(answer: str) -> str:
    """The type of question that `answer` answers."""
    (found,) = [kind for kind, options in OPTIONS.items() if answer in options]
    return found


def telling(asked: list[Asked], number: int, seed: int, picture: str) -> list[Asked]:
    """So many of a picture's questions (0: all), of a type each, drawn by hash: of colour, then of
    shape, then yes or no, which is what most ask and what a text alone mostly answers.
    """
    if not number:
        return asked
    found: list[Asked] = []
    for kind in OPTIONS:
        own = [one for one in asked if type_of(one[1]) == kind]
        found += choose(own, 1, seed, key=lambda one: f"{picture} {one[0]}")
    return found[:number]


def conversation(asked: Sequence[Asked], image_id: str) -> Row:
    """A picture's row of the contract's `conversations`: a round of multiple choice for each
    question, between the answers of its type. The picture stands for the page, over which intervals
    are taken.
    """
    turns: list[dict[str, str]] = []
    for question, answer in asked:
        options = OPTIONS[type_of(answer)]
        lines = [question, *lettered(options), _ASK_LETTER]
        turns.append({"from": "human", "value": "\n".join(lines)})
        turns.append({"from": "gpt", "value": ALPHABET[options.index(answer)]})
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {
        "id": image_id,
        "images": [image_id],
        "conversations": turns,
        "sample_id": image_id,
        "doc_id": image_id,
        "sources": ["multiple_choice"] * len(asked),
    }


def _stored(data: bytes, folder: Path) -> Row:
    """What the ledger says of a picture, whose file is written below `folder` under its hash."""
    facts = verify(data, max_bytes=2**20, max_pixels=2**20)
    image_id = short_hash(data)
    path = f"files/{image_id[:2]}/{image_id}.png"
    file = folder / path
    store(data, file)
    return {
        "image_id": image_id,
        "status": "ok",
        "reason": "",
        "path": path,
        **vars(facts),
    }
