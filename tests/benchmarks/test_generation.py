"""Asking with journal, limits and retries against the bare official client, and against servers
that refuse and fail.

In short turns beside each other, since other work on the machine slows some of them: of each, the
best and the median. The servers are processes of their own, so that their CPU time does not count.
"""

import asyncio
import base64
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from tests.asking_process import start, wait_for
from tests.engine_ground import Ground, chat, questions
from tests.load_server import bill, load_server
from tests.openai_server import KEY
from vislib.engines import Request
from vislib.engines.ask import ask_all

pytestmark = pytest.mark.campaign
N, MOST, TURNS = 2_000, 64, 3
Work = Callable[[str, list[Request]], None]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    import openai  # noqa: F401

    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def bare(url: str, requests: list[Request], *, reads: bool = False) -> None:
    """The official client and a semaphore; images as files are, encoded here. `reads`: each picture
    is decoded first, so that none is paid for that is cut off.
    """
    from openai import AsyncOpenAI

    async def one(client: AsyncOpenAI, places: asyncio.Semaphore, request: Request) -> str | None:
        async with places:
            content = request.prompt
            if request.image_path:
                if reads:
                    with Image.open(request.image_path) as image:
                        await asyncio.to_thread(image.load)
                uri = (
                    "data:image/jpeg;base64,"
                    + base64.b64encode(request.image_path.read_bytes()).decode()
                )
                content = [
                    {"type": "text", "text": content},
                    {"type": "image_url", "image_url": {"url": uri}},
                ]
            reply = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": content}],
                temperature=0,
                max_completion_tokens=1024,
            )
            return reply.choices[0].message.content

    async def everything() -> list[str | None]:
        places = asyncio.Semaphore(MOST)
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(one(client, places, request) for request in requests))

    assert all(asyncio.run(everything()))


def careful(url: str, requests: list[Request]) -> None:
    """`bare`, every picture decoded first."""
    bare(url, requests, reads=True)


def ours(url: str, requests: list[Request]) -> None:
    """The whole of `ask_all`: survey, estimate, asking, journal."""
    with TemporaryDirectory() as folder:
        ground = Ground(Path(folder))
        ask_all(ground, chat(base_url=url, model="m", max_in_flight=MOST), lambda: iter(requests))
        assert len(ground.journal("openai")) == len(requests)


def measured(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the wall clock, and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(what: str, requests: list[Request], peer: Work = bare) -> tuple[float, float]:
    """Print both in turns; what ours takes of the peer's wall and CPU at best."""
    with load_server(latency_s=0.3) as url:
        for way in (peer, ours):
            way(url, requests[:MOST])
        turns = [
            [measured(lambda: way(url, requests)) for way in (peer, ours)]  # noqa: B023
            for _ in range(TURNS)
        ]
    found = []
    for number, name in enumerate(("wall", "CPU")):
        own, our = ([turn[way][number] for turn in turns] for way in (0, 1))
        ratios = [b / a for a, b in zip(own, our, strict=True)]
        found.append(best := min(our) / min(own))
        unit = (1, "s") if name == "wall" else (1000 / len(requests), "ms a request")
        print(
            f"{what}, {name}: {min(our) * unit[0]:.2f} {unit[1]} against {min(own) * unit[0]:.2f}: "
            f"{best:.3f} of it at best, {statistics.median(ratios):.3f} in the median turn"
        )
    return found[0], found[1]


def test_texts_take_little_more_than_the_bare_client() -> None:
    wall, cpu = compare("texts", list(questions(N)))
    assert wall <= 1.05
    assert cpu <= 1.3


def test_images_take_little_more_than_the_bare_client(tmp_path: Path) -> None:
    for i in range(50):
        Image.effect_noise((320, 240), 60).convert("RGB").save(tmp_path / f"{i}.jpg", quality=91)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert 50_000 < statistics.mean(sizes) < 70_000
    texts = enumerate(questions(N))
    requests = [
        Request(
            id=q.id,
            prompt=q.prompt,
            prompt_sha="t",
            image_id=str(i),
            image_path=tmp_path / f"{i % 50}.jpg",
        )
        for i, q in texts
    ]
    compare("images of 60 KB, sent unread", requests)
    wall, cpu = compare("images of 60 KB, each read first", requests, careful)
    assert wall <= 1.05
    assert cpu <= 1.3


def test_memory_does_not_grow_with_the_number_of_requests(tmp_path: Path) -> None:
    peaks = {}
    with load_server(latency_s=0.02) as url:
        for n in (1_000, 100_000):
            began = time.perf_counter()
            process = start(tmp_path / str(n), n, base_url=url, model="m", max_in_flight=MOST)
            wait_for(process, "done")
            peaks[n] = float(process.communicate()[0])
            print(
                f"{n:,} requests: {peaks[n]:.0f} MiB at most, {time.perf_counter() - began:.0f} s"
            )
    assert peaks[100_000] - peaks[1_000] < 40


@pytest.mark.parametrize(
    ("headers", "retry_after", "allowed"),
    [(True, True, 1.3), (True, False, 1.3), (False, True, 0), (False, False, 0)],
)
def test_a_server_that_refuses_and_fails_is_used_to_its_limit(
    tmp_path, headers, retry_after, allowed
) -> None:
    """1,000 requests, 5 % 500s, 429 above 48 in flight and above 6,000 a minute (100 in any
    second): 10 s at best.
    """
    limits = {"latency_s": 0.3, "most_in_flight": 48, "per_minute": 6000, "fault_rate": 0.05}
    took = []
    for turn in range(TURNS):
        with load_server(**limits, headers=headers, retry_after=retry_after, seed=turn) as url:
            ground = Ground(tmp_path / str(turn))
            engine = chat(base_url=url, model="m", max_in_flight=MOST)
            took.append(measured(lambda: ask_all(ground, engine, lambda: questions(1000)))[0])  # noqa: B023
            seen = bill(url)
        assert len(ground.journal("openai")) == sum(seen["billed"].values()) == 1000
    told = (
        f"limits {'told' if headers else 'not told'}, Retry-After"
        f" {'told' if retry_after else 'not told'}"
    )
    best, median = min(took) / 10, statistics.median(took) / 10
    print(f"{told}: {best:.2f} of ideal at best, {median:.2f} in the median, {seen['failed']}")
    assert not allowed or best <= allowed
