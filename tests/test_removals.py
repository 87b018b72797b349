"""Removal lists: how they are read, and what is said of a line that is none."""

import json
from pathlib import Path

import pytest

from vislib import removals
from vislib.runs import InputError
from vislib.runs.contract import REMOVALS
from vislib.runs.tables import write_table

ENTRY = {"unit": "image", "id": "00ff00ff00ff00ff", "reason": "nsfw", "note": "0.97"}


def test_lists_are_files_folders_and_tables_and_the_first_entry_of_an_id_stands(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "lists"
    write_table(folder, REMOVALS, [ENTRY | {"id": "of the table"}])
    line = json.dumps(ENTRY)
    # as an editor on Windows, the gallery (more keys) and somebody by hand (no note) write it
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    more = ENTRY | {"reason": "again", "at": "today"}
    link = {"unit": "link", "id": "http://x/\u2028a.png", "reason": "gone"}
    text = json.dumps(more) + "\n" + json.dumps(link, ensure_ascii=False)
    (tmp_path / "b.jsonl").write_text(text)
    found = list(removals.read([folder, tmp_path / "b.jsonl"]))
    assert found == [ENTRY, ENTRY | {"id": "of the table"}, link | {"note": ""}]
    assert list(removals.read([])) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sample s1 bad", "is no JSON"),
        ("[]", "unit is None"),
        (json.dumps(ENTRY | {"unit": "page"}), "unit is 'page'"),
        (json.dumps(ENTRY | {"id": ""}), "id is ''"),
        (json.dumps(ENTRY | {"id": 7}), "id is 7"),
        (json.dumps(ENTRY | {"id": "x "}), "id is 'x '"),
        (json.dumps({"unit": "image", "id": "x"}), "reason is None"),
        (json.dumps(ENTRY | {"note": None}), "note is None"),
    ],
)
def test_a_line_that_is_no_entry_is_named_with_the_form_of_one(
    line: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "list.jsonl"
    file.write_text(json.dumps(ENTRY) + "\n" + line)
    with pytest.raises(InputError, match=r"list\.jsonl, line 2: .*sample, question, image") as info:
        list(removals.read([file]))
    assert said in str(info.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        list(removals.read([file]))


def test_a_round_leaves_with_its_question_and_the_picture_stays_first() -> None:
    said = ["<image>\nIs it ‹image›?\nA. a\nB. b", "A", "Describe it.", "Red.", "Is it?", "Yes."]
    turns = [{"from": "human" if n % 2 else "gpt", "value": text} for n, text in enumerate(said)]
    row = {
        "id": "s",
        "conversations": turns,
        "sources": ["multiple_choice", "caption", "free_form"],
    }
    assert removals.without(row, []) == row
    one = removals.without(row, ["Is it <image>?"])  # 08 has neutralised it
    assert [t["value"] for t in one["conversations"]] == ["<image>\nDescribe it.", *said[3:]]
    assert one["sources"] == ["caption", "free_form"]
    two = removals.without(one, ["Is it?", "Describe it."])  # a caption is no question
    assert [t["value"] for t in two["conversations"]] == ["<image>\nDescribe it.", "Red."]
    only = {"id": "s", "conversations": turns[-2:], "sources": ["free_form"]}
    assert removals.without(only, ["Is it?"])["conversations"] == []
