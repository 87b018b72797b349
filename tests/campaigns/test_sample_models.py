"""params/sample-models gives the rows that stand in tests/golden/sample-models: four arms of 10 and
every loss of theirs, captions and scores of 11.

After a change that is meant, `python -m tests.golden runs/sample-models` writes them anew, and the
commit says why they changed. They are of an x86 CPU: on another, texts of random models may differ.
"""

import pytest

from tests.golden import MODELS, TRAINED, assert_same_rows, read_golden, read_run
from tests.sets import ROOT, run_set

pytestmark = pytest.mark.campaign
GOLDEN = read_golden(MODELS)


@pytest.fixture(scope="module")
def made(sample_run):
    """What stages 10 and 11 make beside a run of the sample set."""
    for name in TRAINED:
        run_set(ROOT / "params/sample-models", sample_run.parent, "--only", name)
    found = read_run(sample_run.parent / "sample-models")
    return {name: rows for name, rows in found.items() if name.startswith(TRAINED)}


def test_no_table_is_lost_or_new(made):
    assert sorted(made) == sorted(GOLDEN)


@pytest.mark.parametrize("table", GOLDEN)
def test_rows(made, table):
    assert_same_rows(table, GOLDEN, made)
