"""All faults mixed, limits on, SIGKILL at seeded moments: all is answered or explained, and little
is paid twice.
"""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.asking_process import start, wait_for
from tests.engine_ground import Ground, asking, chat
from tests.load_server import FAULTS, bill, load_server
from vislib.engines import answer_of
from vislib.engines.replies import RETRIED

MOST = 16
REASONS = RETRIED | {"length", "content_filter"}


def answers_in(folder: Path) -> int:
    """Number of answers in the journal so far."""
    return len(Ground(folder).journal("openai")) if (folder / "openai.sqlite").exists() else 0


@pytest.mark.parametrize(
    ("n", "kills"), [(60, 2), pytest.param(600, 20, marks=pytest.mark.campaign)]
)
def test_killed_at_any_moment_all_is_answered_or_explained_and_little_paid_twice(
    tmp_path, n, kills
):
    chance, moments = random.Random(20), [(kill + 0.5) * n * 0.9 / kills for kill in range(kills)]
    limited = {
        "most_in_flight": 8,
        "per_minute": 6000,
        "fault_rate": 0.05,
        "faults": ["error", "reset"],
    }
    with (
        load_server(latency_s=0.1, seed=1, **limited) as sound,
        load_server(latency_s=0.1, seed=2, fault_rate=0.4, faults=list(FAULTS)) as flaky,
    ):
        settings = {
            "base_url": f"{sound} {flaky}",
            "model": "m",
            "max_in_flight": MOST,
            "timeout_s": 1.0,
        }
        for moment in moments:
            process = start(tmp_path, n, **settings)
            wait_for(process, "begun")
            while answers_in(tmp_path) < moment:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
        last = start(tmp_path, n, **settings)
        wait_for(last, "done")
        assert last.wait(60) == 0
        bills = [bill(url) for url in (sound, flaky)]

    journal, engine = Ground(tmp_path).journal("openai"), chat(**settings)
    answers = [answer_of(journal, engine, request) for request in asking(n)]
    assert {
        answer.reason for answer in answers if answer.status == "failed"
    } <= REASONS  # none is `not_asked`
    assert sum(answer.status == "failed" for answer in answers) < 0.2 * n
    paid = Counter(bills[0]["billed"]) + Counter(bills[1]["billed"])
    assert all(paid[f"question {i}"] for i, answer in enumerate(answers) if answer.status == "ok")
    twice = sum(times - 1 for times in paid.values())
    print(f"{n} requests, {kills} kills: {twice} paid twice, {Counter(a.reason for a in answers)}")
    assert twice <= kills * MOST
    assert bills[0]["most"] <= 8
    met = {**bills[0]["failed"], **bills[1]["failed"]}
    assert len(met) > (20 if n > 100 else 8), met


@pytest.mark.campaign
def test_a_kill_makes_no_more_be_paid_twice_than_was_in_flight(tmp_path):
    n, in_flight = 2000, 64
    with load_server(latency_s=0.3, seed=1) as url:
        settings = {"base_url": url, "model": "m", "max_in_flight": in_flight, "timeout_s": 30.0}
        process = start(tmp_path, n, **settings)
        while answers_in(tmp_path) < n // 2:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
        last = start(tmp_path, n, **settings)
        wait_for(last, "done")
        assert last.wait(60) == 0
        paid = Counter(bill(url)["billed"])
    twice = sum(times - 1 for times in paid.values())
    print(f"{n} requests, {in_flight} in flight, a kill: {twice} paid twice")
    assert len(paid) == n
    assert twice <= in_flight
