"""The joins of 06 and 08 over more and more rows: time per row is flat, memory is bounded.

Each size in a process of its own, since a process remembers its largest memory.
"""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

pytestmark = pytest.mark.campaign
SIZES = (10_000, 100_000, 1_000_000)  # samples; each has two captions and fourteen questions
TABLES = {
    "samples": """SELECT id(i) AS sample_id, id(i // 4) AS doc_id, 'http://h/' || i AS image_url,
        'http://p/' || (i // 4) AS page_url, repeat(sha256(i::VARCHAR), 16) AS context
        FROM range({n}) t(i)""",
    "images": """SELECT id(i) AS image_id, 'http://h/' || i AS image_url, 'ok' AS status,
        '' AS reason, 'files/' || i AS path, 9 AS width, 9 AS height
        FROM range({n}) t(i) ORDER BY hash(i)""",
    "captions": """SELECT id(i // 2) AS sample_id,
        ['contextual', 'non_contextual'][i % 2 + 1] AS kind,
        repeat(sha256(i::VARCHAR), 4) AS caption, 'ok' AS status, '' AS reason
        FROM range({n} * 2) t(i)""",
    "removals": """SELECT 'sample' AS unit, id(i * 10) AS id, 'asked' AS reason, '' AS note
        FROM range({n} // 10) t(i)""",
    "questions": """SELECT id(i + 10**12) AS question_id, id(i // 14) AS sample_id,
        ['contextual', 'non_contextual'][i % 2 + 1] AS kind,
        ['free_form', 'multiple_choice'][(i // 2) % 2 + 1] AS question_type,
        'Is it ' || i || '?' AS question, []::VARCHAR[] AS options, 'Yes.' AS answer,
        'ok' AS status, '' AS reason FROM range({n} * 14) t(i)""",
}
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from vislib import captioning, merging
from vislib.runs import sql, tables
folder, kinds = Path(sys.argv[1]), ["contextual", "non_contextual"]
names = ("samples", "images", "captions", "questions", "removals")
given = {name: folder / name for name in names}
query = {
    "06": captioning.join(kinds, with_priors=False),
    "08": merging.join(kinds, seed=0, test_fraction=0.02),
}[sys.argv[2]]
if sys.argv[2] == "06":
    del given["captions"], given["questions"], given["removals"]
began = time.perf_counter()
into = sql.query(query, folder / "joined", given, scratch=folder / "scratch")
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([tables.count_rows(into), seconds, peak]))
"""


def write(folder: Path, n: int) -> None:
    """Tables of `n` samples in files of 2,000 rows, as stages write them."""
    with duckdb.connect() as database:
        database.execute("CREATE MACRO id(i) AS left(sha256(i::VARCHAR), 16)")
        for name, text in TABLES.items():
            database.execute(
                f"COPY ({text.format(n=n)}) TO '{folder / name}' (FORMAT parquet,"
                " ROW_GROUP_SIZE 2048, ROW_GROUPS_PER_FILE 1, FILENAME_PATTERN 'part-{i}')"
            )


@pytest.mark.parametrize("stage", ["06", "08"])
def test_time_per_row_is_flat_and_memory_bounded(tmp_path: Path, stage: str) -> None:
    rates = {}
    for n in SIZES:
        folder = tmp_path / str(n)
        folder.mkdir()
        write(folder, n)
        command = [sys.executable, "-c", MEASURE, str(folder), stage]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows, seconds, peak = json.loads(said)
        rates[n] = 1e6 * seconds / rows
        print(f"{stage}, {rows:,} rows: {rates[n]:.0f} µs a row, {peak:.0f} MiB at most")
        assert peak < 1024
    assert rates[SIZES[-1]] < 1.5 * rates[SIZES[0]]
