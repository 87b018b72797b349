"""Answers that stand written: found by place, refused for another prompt or caption."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine_ground import Ground
from vislib.engines import Request, answer_of
from vislib.engines.ask import ask_all
from vislib.engines.recorded import Recorded, caption_hash, read_answers
from vislib.runs.errors import InputError

PAGE = "https://example.org/pond"
CAPTION = "Two ducks on a pond."
ROUNDS = [
    {"ask": "How many ducks are there?", "options": ["One", "Two", "Six", "Ten"], "answer": "B"},
]


def page(**changes: Any) -> dict[str, Any]:
    kind = {
        "caption": CAPTION,
        "about": caption_hash(CAPTION),
        "free_form": [{"ask": "Where are they?", "answer": "On a pond."}],
        "multiple_choice": ROUNDS,
    }
    return {
        "page": PAGE,
        "writer": "Someone",
        "date": "2026-11-30",
        "prompts": {"contextual": "p1", "free_form": "p2", "multiple_choice": "p3"},
        "images": [{"image": 1, "file": "pond.jpg", "contextual": kind | changes}],
    }


def folder_of(folder: Path, *pages: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(pages):
        (folder / f"{number}.yaml").write_text(yaml.safe_dump(one), encoding="utf-8")
    return folder


def asked(
    task: str = "caption", prompt: str = "p1", *, image: int = 1, kind: str = "contextual"
) -> Request:
    evidence = {
        "task": task,
        "kind": kind,
        "sample": {"page_url": PAGE, "image_index": image},
        "caption": "" if task == "caption" else CAPTION,
    }
    return Request(id=f"s{image}", prompt=f"{task} {image}", prompt_sha=prompt, evidence=evidence)


def answers(folder: Path, where: Path, *requests: Request) -> list[tuple[str, str]]:
    ground, engine = Ground(where), Recorded(folder)
    ask_all(ground, engine, lambda: list(requests))
    found = [answer_of(ground.journal("recorded"), engine, request) for request in requests]
    return [(one.reason or one.model, one.text or one.detail) for one in found]


def test_captions_and_rounds_are_found_by_their_place(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "answers", page())
    found = answers(
        folder, tmp_path, asked(), asked("free_form", "p2"), asked("multiple_choice", "p3")
    )
    assert [model for model, _ in found] == ["Someone, 2026-11-30"] * 3
    assert [text for _, text in found] == [
        CAPTION,
        "<Human> Where are they?\n<Assistant> On a pond.",
        "<Human> How many ducks are there?\n<Options>\n"
        '"A. One"\n"B. Two"\n"C. Six"\n"D. Ten"\n<Assistant> B',
    ]


def test_a_text_in_place_of_rounds_is_left_as_it_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "answers", page(free_form="<Human> What"))
    assert answers(folder, tmp_path, asked("free_form", "p2"))[0][1] == "<Human> What"


def test_an_answer_to_another_prompt_or_caption_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "answers", page(about="another"))
    found = answers(
        folder,
        tmp_path,
        asked(),
        asked("free_form", "p2"),
        asked("multiple_choice", "edited"),
        asked(image=2),
        asked(kind="fused"),
    )
    assert found[0] == ("Someone, 2026-11-30", CAPTION)
    assert found[1:3] == [
        (
            "recorded_for_another_caption",
            f"written about another, asked about {caption_hash(CAPTION)}",
        ),
        ("recorded_for_another_prompt", "written for p3, asked with edited"),
    ]
    assert found[3] == ("not_recorded", "image 2 of its page, contextual, caption")
    assert found[4] == ("not_recorded", "image 1 of its page, fused, caption")


def test_an_edited_answer_is_given_at_the_next_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "answers", page())
    answers(folder, tmp_path, asked())
    folder_of(folder, page(caption="Three ducks."))
    assert answers(folder, tmp_path, asked())[0][1] == "Three ducks."


def test_a_run_without_any_answer_names_the_ways_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "answers", page())
    with pytest.raises(InputError, match=r"none of 1 requests has an answer \(not_recorded 1.*ext"):
        answers(folder, tmp_path, asked(image=7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("page: [", r"0\.yaml: not readable as YAML"),
        ("[]", r"0\.yaml: not in the form of recorded answers"),
        ("page: x\nwriter: y\ndate: z\nimages: []", r"KeyError: 'prompts'"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "0.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_answers(tmp_path)


def test_an_empty_folder_and_a_second_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no recorded answers"):
        read_answers(tmp_path)
    with pytest.raises(InputError, match=r"1\.yaml: .*pond.* is answered in another file too"):
        read_answers(folder_of(tmp_path / "twice", page(), page()))
