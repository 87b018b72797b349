"""A small release made of tables by hand, as 09 makes it: nine samples, two kinds, two
configurations, one split that one of them lacks.
"""

from functools import partial
from pathlib import Path
from typing import Any

from tests.web_server import png
from vislib import removals
from vislib.publishing import release
from vislib.runs import short_hash
from vislib.runs.contract import CAPTIONS, CONVERSATIONS, IMAGES, QUESTIONS, SAMPLES
from vislib.runs.record import Run
from vislib.runs.stage import Stage
from vislib.runs.tables import write_table

KINDS, CONFIGURATIONS = ("contextual", "non_contextual"), ("captions", "leaky_mix")
N, TEST = 9, (7, 8)  # samples, and those of the test split of the leaky mix


def turns(number: int, configuration: str) -> list[dict[str, str]]:
    said = [("human", "<image>\nDescribe it."), ("gpt", f"Shade {number} – grün.")]
    if configuration == "leaky_mix":
        said += [("human", "Which?\nA. one\nB. two"), ("gpt", "B")]
    return [{"from": speaker, "value": value} for speaker, value in said]


def write_tables(root: Path, base: str) -> None:
    """Tables of 02, 03, 06, 07 and 08 below `root`; images at `<base>/<number>.png`."""
    samples, images, captions, questions = [], [], [], []
    for n in range(N):
        data = png(n)
        name = f"files/{short_hash(data)}.png"
        (root / "03/files").mkdir(parents=True, exist_ok=True)
        (root / "03" / name).write_bytes(data)
        ids = {"sample_id": f"s{n}", "doc_id": f"d{n}", "image_url": f"{base}/{n}.png"}
        text = {"alt_text": f"alt {n}", "page_url": f"http://p/{n}", "context": f"page {n}"}
        samples.append(ids | text | dict.fromkeys(("image_index", "n_context_tokens"), 1))
        sizes = {"width": 24, "height": 16, "format": "PNG", "image_id": short_hash(data)}
        images.append({"image_url": ids["image_url"], "status": "ok", "path": name} | sizes)
        for kind in KINDS:
            said = {"sample_id": f"s{n}", "kind": kind, "status": "ok", "model": "writer"}
            captions.append(said | {"prompt_sha": f"p-{kind}", "request_sha": f"r{n}"})
            for q in "ba":
                asks = {
                    "question_id": f"q{n}{kind[0]}{q}",
                    "question": {"b": "Which?", "a": "Why?"}[q],
                }
                questions.append(said | asks | {"model": f"asker {q}", "request_sha": f"q{n}"})
    given = [("02", SAMPLES, samples), ("03/images", IMAGES, images)]
    given += [("06", CAPTIONS, captions), ("07", QUESTIONS, questions)]
    for kind in KINDS:
        for configuration in CONFIGURATIONS:
            whole = {n: conversation(n, configuration) for n in range(N)}
            test = TEST if configuration == "leaky_mix" else ()
            for split in ("train", "test"):
                chosen = [row for n, row in whole.items() if (n in test) == (split == "test")]
                if chosen:
                    made = [(f"08/{kind}/{configuration}", CONVERSATIONS, chosen)]
                    place = root / made[0][0]
                    write_table(place / split, CONVERSATIONS, chosen)
                    (place / split / "part-00000.parquet").rename(place / f"{split}-00000.parquet")
                    (place / split).rmdir()
    for name, schema, rows in given:
        full = ({column: row.get(column) for column in schema.names} for row in rows)
        write_table(root / name, schema, full)


def conversation(n: int, configuration: str) -> dict[str, Any]:
    sources = ["caption", "multiple_choice"] if configuration == "leaky_mix" else ["caption"]
    ids = {"id": f"s{n}", "sample_id": f"s{n}", "doc_id": f"d{n}", "images": ["i"]}
    return ids | {"conversations": turns(n, configuration), "sources": sources}


def publish(root: Path, base: str = "http://x", *, rows_per_part: int = 4, **values: Any) -> Run:
    """Stage 09 over such tables, its work cells one by one."""
    if not (root / "08").exists():
        write_tables(root, base)
    place = {"conversations": "08/*/*/*.parquet", "samples": "02", "images": "03/images"}
    place |= {"captions": "06", "questions": "07"}
    tables = {name: str(root / path) for name, path in place.items()} | values
    given = {"releases": ["with_images", "links_only"], "with_context": False, "workers": 1}
    given |= {"run_dir": str(root / "runs"), "variant": "", "limit": 0, "seed": 0, "removals": []}
    given |= tables
    stage = Stage(notebook="09_publishing", schema={}, values=given)
    run = Run(stage, stage.open_partial("key", {"hashes": {}, "inputs": {}}), [])
    p = run.params
    query = release.join(asked=bool(p.questions), limit=p.limit, seed=p.seed)
    read = {name: tables[name] for name in place if tables[name]}
    read |= {"removals": removals.table(run)}
    joined = run.sql(query, into="joined", one_per=release.ID, rows_per_part=rows_per_part, **read)
    places = {"files": root / "03", "into": run.scratch}
    rule = partial(release.rows, releases=p.releases, with_context=p.with_context, **places)
    schemas = release.schemas(with_context=p.with_context)
    run.map(rule, joined, unit="row", id=release.ID, batch=3, tables=schemas)
    for name in p.releases:
        release.number_shards(run.scratch / name, run.data / name)
        release.write_readme(run.data / name)
        release.write_sums(run.data / name)
    run.account()
    return run
