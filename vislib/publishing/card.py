"""The card of a release: README.md with the header that the hub and `datasets` read, and what a
reader wants to know first (Hugging Face, dataset cards).

The header is taken from the files themselves: configurations, splits, features, rows and bytes. So
`datasets` checks it whenever it loads them.
"""

from io import BytesIO
from typing import Any

import pyarrow.parquet as pq

from vislib.publishing.facts import Facts, total
from vislib.publishing.release import hub_configs
from vislib.runs import tables
from vislib.runs.tables import Row

PICTURE = "figures/conversations.png"
TASKS = ["image-text-to-text", "visual-question-answering", "image-to-text"]
# from so many rows on, in the words of the hub
_SIZES = {
    10**9: "n>1B",
    10**8: "100M<n<1B",
    10**7: "10M<n<100M",
    10**6: "1M<n<10M",
    10**5: "100K<n<1M",
    10**4: "10K<n<100K",
    10**3: "1K<n<10K",
    0: "n<1K",
}

_PAIRS = """
WITH counted AS (SELECT unnest(['free_form', 'multiple_choice']) AS type, sources FROM release),
    pairs AS (SELECT type, len(list_filter(sources, lambda name: name = type)) AS n FROM counted)
SELECT n AS pairs, count(*) FILTER (type = 'free_form') AS "free-form",
    count(*) FILTER (type = 'multiple_choice') AS "multiple-choice"
FROM pairs GROUP BY n ORDER BY n
"""
_CAPTION_WORDS = r"""
SELECT len(regexp_extract_all(turn['value'], '\S+')) AS words FROM (
    SELECT conversations[2 * list_position(sources, 'caption')] AS turn FROM release
    WHERE list_contains(sources, 'caption'))
"""


def write_card(facts: Facts, picture: bytes) -> None:
    """Write README.md, and the `picture` (PNG) that it shows, into the release."""
    (facts.folder / PICTURE).parent.mkdir(exist_ok=True)
    (facts.folder / PICTURE).write_bytes(picture)
    text = f"---\n{header(facts)}\n---\n\n{facts.render('card.md').lstrip()}"
    (facts.folder / "README.md").write_text(text, encoding="utf-8")


def header(facts: Facts) -> str:
    """The YAML header: the hub's fields, configurations, and features and sizes of each."""
    from huggingface_hub import DatasetCardData

    rows = total(next(iter(facts.splits.values())).values()).value
    # the hub filters by these: a language of a row or two is more often a slip of the identifier
    spoken = [
        row["language"].value for row in facts.found["languages"] if 50 * row["rows"].value >= rows
    ]
    # the hub knows a licence that nobody chose as `unknown`
    license = facts.answers.get("license", "unknown")
    named = {"license_name": "see-below", "license_link": "README.md"} if license == "other" else {}
    fields: dict[str, Any] = {
        "license": license,
        **named,
        "language": spoken,
        "pretty_name": facts.answers.get("title"),
        "task_categories": TASKS,
        "size_categories": [next(name for least, name in _SIZES.items() if rows >= least)],
        "annotations_creators": ["machine-generated"],
        "tags": ["image-captioning", "visual-instruction-tuning", "web-context", "croissant"],
        "configs": hub_configs(facts.folder),
        "dataset_info": [_info(facts, name) for name in facts.splits],
    }
    # its own writer, so that the hub reads what it would write
    return DatasetCardData(**fields).to_yaml()


def _info(facts: Facts, name: str) -> Row:
    """Features, rows and bytes of one configuration."""
    from datasets import Features  # late: it takes a second

    # of a file, not of our schema: a release may be made anew by others
    part = tables.parts(facts.folder / "data" / name)[0]
    features = Features.from_arrow_schema(pq.read_schema(part))
    splits: list[Row] = []
    for split, rows in facts.splits[name].items():
        # `datasets` wants bytes of each; texts and pictures in memory are about as large
        files = f"data/{name}/{split}-"
        size = total(size for file, size in facts.files.items() if file.startswith(files))
        splits.append({"name": split, "num_bytes": size.value, "num_examples": rows.value})
    return {
        "config_name": name,
        "features": features._to_yaml_list(),
        "splits": splits,
        "download_size": sum(split["num_bytes"] for split in splits),
    }


def draw(facts: Facts) -> bytes:
    """Pairs per conversation and words per caption of the first configuration (VisCon-100K, figure
    6), as PNG.
    """
    # figures of the run are made after this stage: the card has one of its own
    from vislib import figures
    from vislib.figures import charts, statistics

    release = facts.folder / "data" / next(iter(facts.splits))
    pairs = figures.query(_PAIRS, release=release).set_index("pairs")
    lengths = figures.query(_CAPTION_WORDS, release=release)["words"]
    # drawn once for all releases: they hold the same rows
    titles = "(a) Conversations by pairs of a type", "(b) Captions by words"
    figure, (left, right) = figures.new_figure(*titles, columns=2, aspect=0.6)
    charts.plot_bars(left, pairs)
    # a release of few captions still has an axis
    edges = statistics.whole_edges(max([1, *lengths]), bins=25)
    bins = statistics.histogram({"": lengths}, edges)
    charts.plot_histogram(right, bins, x="Words", y="Captions", run={"median": lengths.median()})
    picture = BytesIO()
    figure.savefig(picture, metadata={"Software": None})
    return picture.getvalue()
