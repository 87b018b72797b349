"""Moderation: personal details and what only looks like one, words, pictures, and what 08 is given
to remove.
"""

import json
import threading
import time
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.sets import ROOT, run_set
from tests.tiny_vision_models import vit
from vislib import moderation
from vislib.runs import InputError, Note, To, tables
from vislib.runs.yaml_files import write_parameters

DETAILS = [
    ("Write to ada.lovelace+notes@mail.example.co.uk, please.", "Write to ‹e-mail›, please."),
    ("邮箱：li@example.cn。", "邮箱：‹e-mail›。"),
    ("Call +44 20 7946 0958 or +1 (415) 555-0132.", "Call ‹phone› or ‹phone›."),
    ("(415) 555-0132; 415-555-0132; 415.555.0132", "‹phone›; ‹phone›; ‹phone›"),
    ("030 / 123 45 67, 0171-2345678, 020 7946 0958", "‹phone›, ‹phone›, ‹phone›"),
    ("Tél. 06 12 34 56 78, 東京 03-1234-5678", "Tél. ‹phone›, 東京 ‹phone›"),
    ("Tel: 555 0132 ask for Jo", "Tel: ‹phone› ask for Jo"),
    ("from 93.184.216.34 and 2606:2800:220:1:248:1893:25c8:1946.", "from ‹ip› and ‹ip›."),
    ("Card 4111 1111 1111 1111, 3782-822463-10005.", "Card ‹card›, ‹card›."),
    ("IBAN DE89 3704 0044 0532 0130 00 (Berlin)", "IBAN ‹iban› (Berlin)"),
    ("GB82WEST12345698765432", "‹iban›"),
    (f"key=sk-{'a1B2' * 8}, AKIA{'A1B2' * 4}; hf_{'Ab1' * 12}", "key=‹key›, ‹key›; ‹key›"),
]
HARMLESS = [
    "Built 1998-2004, restored 2010 2011 2012; 12.05.1998 to 2023-04-05 10:30:00.",
    "Prices: $1,250,000.00, €1.299.000, ¥120,000, 4 500 000 kr, 0,99 €.",
    "Versions 1.2.3.4, v10.0.19045.3086, version 10.4.2.177, clause 5.2.1.10, 2.0.0-rc.1.",
    "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, 9783161484100, ISSN 2049-3630.",
    "At 48.8584, 2.2945; 40°26′46″N 79°58′56″W; -33.8688 151.2093; 51.5074°N.",
    "Score 3-2, 1.500-2.300 m, 100 000-200 000, 1/250 s, f/2.8, ISO 6400, 24-70 mm.",
    "03 68 00 00 00 00 0a 2e, 01:23:45:67:89:ab:cd:ef, 10:20:30, 127.0.0.1, 192.168.0.1.",
    "@handle, a@b, modules foo@1.2.3, 5 @ 3.20, 1234 5678 9012 3456 (an order), M31, NGC 224.",
    "RFC 2119, DE 2024 1234 5678, patent US 10,123,456 B2, arXiv:2405.12345, +5 10 20, 00:12.",
    "Population 8 804 190 in 2020; 299 792 458 m/s; 6.02214076e23; 3.14159265358979.",
    "In 0171 a year, item 020-7946, 007, 0.0174532925 rad, 0800 to 1700 hours, 01-02-2023.",
]


@pytest.mark.parametrize(("text", "clean"), DETAILS, ids=range(len(DETAILS)))
def test_personal_details_are_masked_by_their_kind(text: str, clean: str) -> None:
    found, counts = moderation.masked(text)
    assert found == clean
    assert sum(counts.values()) == clean.count("‹")


@pytest.mark.parametrize("text", HARMLESS)
def test_years_prices_versions_and_positions_are_no_personal_details(text: str) -> None:
    assert moderation.masked(text) == (text, Counter())


def test_words_are_whole_and_harmless_neighbours_pass() -> None:
    assert [name for name, _ in moderation.words("Hentai, said ada@example.org.")] == ["sexual"]
    assert next(moderation.words("PORN by ada@example.org"))[1] == "PORN by ‹e-mail›"
    for text in (
        "Scunthorpe, Essex, a cockerel",
        "breast cancer, a nude by Manet",
        "mate.xxx.Time",
    ):
        assert list(moderation.words(text)) == []
    # no caption or question of the sample, and no page of it, is at fault
    for file in (ROOT / "vislib/sample").rglob("*.json*"):
        assert list(moderation.words(file.read_text(encoding="utf-8"))) == []


HOSTILE = ["a", "1 ", "+1", "a@", "a.b@c.", "0123 ", "ab:", "-----BEGIN ", "4111 ", "DE89 ", "A1"]


@pytest.mark.parametrize("piece", [*HOSTILE, "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaaaa."])
def test_a_strangers_text_takes_linear_time(piece: str) -> None:
    began = time.perf_counter()
    moderation.masked(text := piece * (200_000 // len(piece)))
    list(moderation.words(text))
    assert time.perf_counter() - began < 10  # a tenth of a second, on an idle core


def test_a_file_of_rules_takes_their_place_and_its_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[words]\nfood = ["onions?"]\n[masks]\nyear = ["\\\\b[12]\\\\d{3}\\\\b"]\n')
    assert [name for name, _ in moderation.words("Two onions.", file)] == ["food"]
    assert moderation.masked("In 1998, ada@example.org", file)[0] == "In ‹year›, ada@example.org"
    for text in ("[words", "[words]\nx = 1\n[masks]", '[words]\nx = ["("]', ""):
        (bad := tmp_path / f"{len(text)}.toml").write_text(text)
        with pytest.raises(InputError, match=r"must hold \[words\] and \[masks\]"):
            list(moderation.words("a", bad))


def sample_of(root: Path, caption: str, question: str) -> dict[str, Any]:
    Image.new("RGB", (64, 48), (20, 90, 200)).save(root / "a.png")
    asked = {"question_id": "q", "question": question, "options": [question, "no"], "answer": "A"}
    return {
        "sample": {"sample_id": "s"},
        "image": {"image_id": "i", "path": "a.png"},
        "captions": [{"sample_id": "s", "kind": "contextual", "caption": caption}],
        "questions": [{"sample_id": "s", **asked}],
    }


def test_a_sample_goes_on_masked_with_all_that_was_found_beside_it(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "By ada@example.org.", "Is porn at +44 20 7946 0958?")
    rule = partial(moderation.moderate, image_model=moderation.CARRIED, root=tmp_path)
    said = list(rule([sample], nsfw_threshold=0.0))
    rows = {one.table: one.row for one in said if isinstance(one, To) and one.table != "moderated"}
    assert rows["captions"]["caption"] == "By ‹e-mail›."
    assert rows["questions"]["options"] == ["Is porn at ‹phone›?", "no"]
    found = [one.row for one in said if isinstance(one, To) and one.table == "moderated"]
    assert [(row["unit"], row["rule"], row["verdict"]) for row in found] == [
        ("image", "nsfw", "removed"),
        ("sample", "e-mail", "masked"),
        ("question", "phone", "masked"),
        ("question", "sexual", "removed"),
    ]
    assert Note("nsfw_removed") in said
    assert found[0]["score"] < 0.2
    assert "7946" not in str(found)


def test_any_classifier_of_transformers_does_by_the_names_of_its_labels(tmp_path: Path) -> None:
    vit(tmp_path)
    with pytest.raises(InputError, match="no label of harm: tabby"):
        moderation.classifier(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    labels = dict(enumerate(["safe", "non_nsfw", "porn", "nsfw", "d"]))
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    score = moderation.classifier(str(tmp_path))(Image.new("RGB", (40, 40)))
    assert 0.0 < score < 1.0


def test_the_endpoint_is_asked_once_a_text_and_its_scores_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, said))
            scores = {"violence": 0.9 if "fight" in said["input"] else 0.06, "hate": 0.01}
            flags = {name: score > 0.5 for name, score in scores.items()}
            result = {"flagged": True, "categories": flags, "category_scores": scores}
            body = json.dumps({"id": "x", "model": "m", "results": [result]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    ask = partial(moderation.ask, model="m", url=url, journal=tmp_path / "moderation.sqlite")
    sample = sample_of(tmp_path, "A street.", "Who will fight?")
    rule = partial(moderation.moderate, image_model=moderation.CARRIED, root=tmp_path)
    for _ in range(2):
        said = list(rule([sample], nsfw_threshold=1.0, asked=ask, threshold=0.5))
        found = [one.row for one in said if isinstance(one, To) and one.table == "moderated"]
        assert [(row["id"], row["rule"], row["verdict"]) for row in found[1:]] == [
            ("s", "violence", "kept"),
            ("q", "violence", "removed"),
        ]
    server.shutdown()
    assert [path for path, _ in asked] == ["/v1/moderations"] * 2


def test_the_stage_makes_a_list_that_08_applies_and_comes_before_it(
    sample_run: Path, tmp_path: Path
) -> None:
    """The sample, with a threshold so low that one picture of an eye is above it."""
    runs, folder = tmp_path / "runs", tmp_path / "moderated"
    folder.mkdir()
    runs.mkdir()
    (runs / "sample").symlink_to(sample_run)
    there = {"samples": "02_filtering/samples", "images": "03_images/images"}
    texts = {"captions": "06_captioning/captions", "questions": "07_qa_generation/questions"}
    inputs = {name: f"../sample/{table}" for name, table in (there | texts).items()}
    write_parameters(folder / "17_moderation.yaml", inputs | {"nsfw_threshold": 0.1})
    own = {name: f"17_moderation/{name}" for name in texts}
    own |= {"removals": ["17_moderation/removals"]}
    write_parameters(folder / "08_merging.yaml", inputs | own)
    printed = run_set(folder, runs)
    assert printed.index("17_moderation  ") < printed.index("08_merging  ")
    (entry,) = tables.read_rows(runs / "moderated/17_moderation/data/removals")
    assert (entry["unit"], entry["reason"]) == ("image", "nsfw")
    record = json.loads((runs / "moderated/08_merging/run.json").read_text())
    assert record["counts"]["sample"]["dropped"]["removed"] == 1
    assert "removals_that_name_nothing" in record["metrics"]
    before, after = (
        {r["sample_id"]: r for r in tables.read_rows(run / "08_merging/data/contextual/leaky_mix")}
        for run in (sample_run, runs / "moderated")
    )
    (gone,) = before.keys() - after.keys()
    assert before[gone]["images"] == [entry["id"]]
    assert after.items() <= before.items()
