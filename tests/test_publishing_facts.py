"""What is known of a release: every number has a place, and stands there."""

import json
import re
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.papers_ground import INPUTS, RELEASES, changed, known
from vislib.publishing.card import draw
from vislib.publishing.croissant import described
from vislib.publishing.facts import (
    OF_RELEASE,
    OF_STAGES,
    Fact,
    Facts,
    collect,
    read_answers,
)
from vislib.publishing.templates import TEMPLATES
from vislib.runs import InputError, sql, tables
from vislib.runs.contract import CONSENT

QUERIES = {**OF_RELEASE, **{title: query for title, (_, _, query) in OF_STAGES.items()}}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def both(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Facts]:
    return known(sample_run, tmp_path_factory.mktemp("scratch"))


def looked_up(place: str, run: Path, scratch: Path) -> Any:
    """What stands at a fact's place, read again."""
    if " + " in place:
        return reduce(lambda a, b: a + b, [looked_up(p, run, scratch) for p in place.split(" + ")])
    file, *names = place.split(" > ")
    at = run.parent / file if file.endswith("run.json") or "/data/" in file else None
    if file.startswith(RELEASES):
        at = run / "09_publishing/data" / file
    assert at is not None
    assert at.exists(), place
    if at.suffix == ".json":
        found = json.loads(at.read_text())
    elif names == ["rows"]:
        return pq.read_metadata(at).num_rows
    elif names == ["bytes"]:
        return at.stat().st_size
    elif names[0] == "languages":
        ids = pq.read_table(at, columns=["id"]).num_rows
        return {"language": "en", "rows": ids}[names[2]]  # all of the sample's are English
    else:
        main = run / "09_publishing/data/with_images/data/contextual-leaky_mix"
        given = {"release": main} | ({at.name: at} if names[0] in OF_STAGES else {})
        rows = sql.select(QUERIES[names[0]], given, scratch)
        found, names = [row for (row,) in rows], names[1:]
    for name in names:
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def numbers_of_prose(facts: Facts) -> set[str]:
    """Numbers that stand in the templates themselves, or that a person wrote in answers."""
    texts = [file.read_text() for file in TEMPLATES.glob("*.[mj]*")] + list(facts.answers.values())
    return {number for text in texts for number in NUMBER.findall(text)}


@pytest.mark.parametrize("template", ["card.md", "datasheet.md", "rai.md"])
@pytest.mark.parametrize("release", [0, 1], ids=RELEASES)
def test_every_number_stands_in_a_record_or_a_table(
    template: str, release: int, both: list[Facts], sample_run: Path, tmp_path: Path
) -> None:
    facts, told = both[release], list[Fact]()

    def mark(value: Any) -> str:
        if not isinstance(value, Fact):
            return str(value)
        told.append(value)
        return f"⟦{value}⟧"

    text = facts.render(template, mark)
    assert len(told) > 30
    for fact in told:
        stands = looked_up(fact.place, sample_run, tmp_path)
        assert stands == fact.value or str(stands).startswith(str(fact.value)), fact.place
    rest = re.sub("⟦[^⟧]*⟧", "", text)
    # hashes and model names may hold digits, and are facts too; words of ours hold few
    dates = {record.value["started_at"][:10] for record in facts.records}
    models = {row.value["model"] for name in ("captions", "questions") for row in facts.found[name]}
    for known_text in (*dates, *models, *facts.splits, *(r.value["stage"] for r in facts.records)):
        rest = rest.replace(known_text, "")
    strange = set(NUMBER.findall(rest)) - numbers_of_prose(facts)
    assert not strange


def test_the_numbers_of_croissant_are_those_of_the_files(both: list[Facts]) -> None:
    for facts in both:
        for entry in described(facts)["distribution"]:
            if entry["@type"] == "cr:FileObject":
                size = (facts.folder / entry["contentUrl"]).stat().st_size
                assert entry["contentSize"] == f"{size} B"


def test_sums_agree_with_a_count_by_other_means(both: list[Facts], sample_run: Path) -> None:
    facts = both[0]
    folder = facts.folder / "data" / next(iter(facts.splits))
    rows = pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])
    (totals,) = facts.found["totals"]
    assert next(iter(facts.splits)) == "contextual-leaky_mix"
    assert totals.value == {
        "samples": rows["sample_id"].nunique(),
        "pages": rows["doc_id"].nunique(),
        "images": rows["image_id"].nunique(),
        "rows": len(rows),
        "rounds": rows["sources"].map(len).sum(),
        "without_alt_text": (rows["alt_text"] == "").sum(),
    }
    rounds = Counter(source for sources in rows["sources"] for source in sources)
    assert {r.value["source"]: r.value["rounds"] for r in facts.found["rounds"]} == rounds
    hosts = rows["page_url"].str.extract("//([^/]+)")[0].value_counts()
    top = facts.found["sites"]
    assert [row.value["images"] for row in top] == hosts.iloc[: len(top)].tolist()
    assert {row.value["sites"] for row in top} == {len(hosts)}
    captions = pd.read_parquet(sample_run / "06_captioning/data/captions")
    ok = captions[captions["status"] == "ok"]
    written = {row.value["kind"]: row.value["captions"] for row in facts.found["captions"]}
    assert written == ok["kind"].value_counts().to_dict()


def test_records_are_followed_to_the_first_stage_and_into_other_runs(
    both: list[Facts], sample_run: Path, tmp_path: Path
) -> None:
    stages = [record.value["stage"] for record in both[0].records]
    assert stages == [
        "01_documents",
        "02_filtering",
        "03_images",
        "06_captioning",
        "07_qa_generation",
        "08_merging",
    ]
    run = sample_run.parent / "stranger"
    away = [f"../{sample_run.name}/{value}" for value in INPUTS]
    folders = [both[0].folder]
    facts = collect(folders, [*away, "../nowhere/08_merging/contextual"], run, tmp_path)
    assert [record.value["stage"] for record in facts[0].records] == stages
    assert facts[0].lost == ["../nowhere/08_merging/contextual"]
    assert "../nowhere/08_merging/contextual" in facts[0].render("card.md")


def test_captions_alone_of_stages_without_a_record(
    both: list[Facts], sample_run: Path, tmp_path: Path
) -> None:
    """As DenseFusion-1M is released, and by someone who handed over tables without a run."""
    folder = tmp_path / "links_only"
    (folder / "data").mkdir(parents=True)
    (folder / "data/fused-captions").symlink_to(both[1].folder / "data/contextual-captions")
    (facts,) = collect([folder], [], sample_run, tmp_path)
    card, sheet, rai = (facts.render(name) for name in ("card.md", "datasheet.md", "rai.md"))
    assert "multiple-choice" not in card.split("## Load it")[0]
    assert "what vision experts found" in card
    assert "That is not recorded." in sheet
    assert "a version that is not recorded" in sheet
    assert "free-form" not in rai
    described(facts)
    assert draw(facts).startswith(b"\x89PNG")


def test_a_release_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data"):
        collect([tmp_path], [], tmp_path, tmp_path)


def test_a_persons_answers_stand_and_what_is_open_is_listed(
    sample_run: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.md"
    answers.write_text(
        "# Ours\n\n## funding\n<!-- who? -->\nNobody paid.\n\n## contact\n<!-- -->\n"
    )
    assert read_answers(answers) == {"funding": "Nobody paid."}
    facts = known(sample_run, tmp_path, answers)[0]
    sheet = facts.render("datasheet.md")
    assert "Nobody paid." in sheet
    assert "*Open (`contact`)" in sheet
    assert "`contact`" in sheet.split("## Open questions")[1]
    assert "`funding`" not in sheet.split("## Open questions")[1]
    assert "none has been chosen" in facts.render("card.md")
    answers.write_text("## fundng\nNobody.\n")
    with pytest.raises(InputError, match=r"no question is named 'fundng'.*funding"):
        read_answers(answers)
    with pytest.raises(InputError, match="no readable UTF-8 file"):
        read_answers(tmp_path / "none.md")


def test_other_sources_speak_for_themselves(sample_run: Path, tmp_path: Path) -> None:
    def from_hub(record: dict[str, Any]) -> None:
        record["hashes"]["parameters"] |= {"source": "hub", "revision": "a" * 40}

    run = changed(sample_run, tmp_path, "01_documents", from_hub)
    card, sheet, rai = (
        known(run, tmp_path)[1].render(n) for n in ("card.md", "datasheet.md", "rai.md")
    )
    assert "OBELICS" in card
    assert "a" * 40 in card
    assert "CC-BY-4.0" in card
    assert "none has been chosen" in card  # the embedded pages' answers are theirs alone
    assert "Not the papers' data" not in card
    assert "rehydrate" in card
    assert "OBELICS, revision " + "a" * 40 in sheet
    assert "too small" not in rai


def test_the_authors_answer_for_what_they_wrote_alone(sample_run: Path, tmp_path: Path) -> None:
    def by_rules(record: dict[str, Any]) -> None:
        record["hashes"]["parameters"]["engine"] = "extractive"

    facts = known(changed(sample_run, tmp_path, "06_captioning", by_rules), tmp_path)[0]
    assert not facts.answers
    card = facts.render("card.md")
    assert "none has been chosen" in card
    assert "CC0-1.0" in card
    assert "without a model" in card


def test_moderation_is_told_with_its_findings(sample_run: Path, tmp_path: Path) -> None:
    def after_moderation(record: dict[str, Any]) -> None:
        record["inputs"]["removals:17_moderation/removals"] = {"sha256": "0"}

    run = changed(sample_run, tmp_path, "08_merging", after_moderation)
    assert "No program looked" in known(run, tmp_path)[0].render("card.md")
    record = json.loads((run / "08_merging/run.json").read_text())
    record |= {"stage": "17_moderation", "inputs": {}, "metrics": {"masked_email": 31}}
    (run / "17_moderation").mkdir()
    (run / "17_moderation/run.json").write_text(json.dumps(record))
    facts = known(run, tmp_path)[0]
    for name in ("card.md", "datasheet.md", "rai.md"):
        assert "masked email 31" in facts.render(name)


def test_reservations_and_licences_of_fetched_images_are_told(
    sample_run: Path, tmp_path: Path
) -> None:
    def from_the_web(record: dict[str, Any]) -> None:
        record["hashes"]["parameters"]["images_root"] = ""

    run = changed(sample_run, tmp_path, "03_images", from_the_web)
    rows = run / "09_publishing/data/links_only/data/contextual-captions"
    urls = [row["image_url"] for row in tables.read_rows(rows, ["image_url"])]
    nothing = {"robots": "", "x_robots": "", "tdm": "", "usage": "", "licence": ""}
    named = {"licence": "https://creativecommons.org/licenses/by/4.0/"}
    said = [
        {"image_url": urls[0], **nothing, "robots": "GPTBot", "tdm": "1"},
        {"image_url": urls[1], **nothing, **named},
        {"image_url": "https://example.org/not-in-the-release.png", **nothing, "tdm": "1"},
    ]
    tables.write_table(run / "03_images/data/consent", CONSENT, said)
    sheet = known(run, tmp_path)[1].render("datasheet.md")
    assert "gatherers of training data out of 1, an X-Robots-Tag header speaks of 0" in sheet
    assert "TDMRep reserves 1, and" in sheet
    assert "| https://creativecommons.org/licenses/by/4.0/ | 1 |" in sheet
    assert "| Crawled from the web | images, from the links of pages |" in sheet
