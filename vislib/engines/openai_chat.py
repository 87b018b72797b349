"""Engine `openai`: any server that speaks the OpenAI chat protocol (VisCon-100K, sections 3.2 and 3.3).

The official client sends; what is kept, retried, paced and paid is decided here. Requests stream from an
iterator and at most `max_in_flight` exist at once, images read and scaled only when their turn comes. The loop
runs in a thread of its own, so that a notebook's kernel, which runs one already, can call it.
"""

import asyncio
import os
import random
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vislib.engines import Answer, Request
from vislib.engines.limits import Budget, Pace
from vislib.engines.replies import DOUBTFUL, RETRIED, read_completion, read_error, unreachable
from vislib.runs.errors import InputError
from vislib.runs.keys import content_hash, folder_facts

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROVIDER = "https://api.openai.com/v1"
_TRIES = {"rate_limited": 12}  # others: 6
_REST_S = 30.0  # for so long a server that took no connection is passed over, if there are others


@dataclass
class _Server:
    url: str
    client: "AsyncOpenAI"
    in_flight: int = 0
    sent: int = 0
    rests_until: float = 0.0


class _GivenUp(Exception):
    """The run ends before this request was sent, or sent again."""


class OpenAIChat:
    """Asks `params.model` at one server or at several in balance; the limits in `params` count over all of them."""

    name = "openai"
    backoff_s = 0.5  # before the first retry; doubles up to a minute

    def __init__(self, params: Any) -> None:
        if not params.model:
            raise InputError("model is empty; name the model as the server at base_url calls it")
        self.params, self.model, self.urls = params, params.model, server_urls(params.base_url)
        self.budget = Budget(
            params.max_spend_usd, params.usd_per_million_input_tokens, params.usd_per_million_output_tokens
        )
        folder = Path(self.model).expanduser()
        self._identity = content_hash(folder_facts(folder, {}))[:16] if folder.is_dir() else self.model
        self.stop = threading.Event()
        self._servers: list[_Server] = []
        self._halt: InputError | None = None
        self._held: Request | None = None  # by the ceiling
        self._replies = 0
        self._jitter = random.Random()  # moves the time of a retry, never an answer

    def study(self, requests: Iterable[Request]) -> None:
        """Other requests change no answer of a model."""

    def basis(self, request: Request) -> Mapping[str, Any]:
        """The reasoning effort, and the hash of the weights in place of a folder's name."""
        return {"model": self._identity, "reasoning_effort": self.params.reasoning_effort}

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Iterator[tuple[Request, Answer]]:
        """Answers as they come; see `Engine`."""
        self.pace = Pace(requests=self.params.requests_per_minute, tokens=self.params.tokens_per_minute)
        self.budget.spent, self._halt, self._held = spent, None, None
        waiting, done = iter(requests), SimpleQueue[Future[Answer]]()
        under_way: dict[Future[Answer], tuple[Request, float]] = {}
        with self._loop() as loop:
            while True:
                for request, bound in self._admitted(waiting, under_way):
                    future = asyncio.run_coroutine_threadsafe(self._ask(request), loop)
                    under_way[future] = request, bound
                    future.add_done_callback(done.put)
                if not under_way:
                    break
                request, bound = under_way.pop(future := done.get())
                if (result := self._settled(future, bound)) is not None:
                    yield request, result
        if self._halt:
            raise self._halt

    def _admitted(self, waiting: Iterator[Request], under_way: Collection[Any]) -> Iterator[tuple[Request, float]]:
        """Requests that may go now, each with the cost reserved for it; halts at the ceiling."""
        while not self._ending() and len(under_way) < (self.params.max_in_flight if self.budget.proven else 1):
            request, self._held = self._held or next(waiting, None), None
            if request is None:
                return
            bound = self.budget.bound(request)
            if not self.budget.reserve(bound):
                self._held = request  # until an answer under way has cost less than its bound
                if not under_way:
                    self._halt = self.budget.exhausted(bound)
                return
            yield request, bound

    def _settled(self, future: Future[Answer], bound: float) -> Answer | None:
        """The answer of a request that is done, its reservation replaced by its cost; None if it was given up."""
        answer = None
        try:
            answer = future.result()
        except InputError as error:
            self._halt = self._halt or error
        except _GivenUp:
            pass
        self.budget.settle(bound, answer)
        return answer

    def _ending(self) -> bool:
        return self._halt is not None or self.stop.is_set()

    # -- in the loop's thread
    async def _ask(self, request: Request) -> Answer:
        """Ask until there is an answer or a failure that stays."""
        try:
            messages = await asyncio.to_thread(chat_messages, request)
        except (OSError, ValueError) as error:
            return Answer(status="failed", reason="image_unreadable", detail=str(error)[:200])
        replies, tokens_in, tokens_out, tries = self._replies, 0, 0, 0
        while True:
            answer, wait = await self._try(request, messages)
            tries, tokens_in, tokens_out = tries + 1, tokens_in + answer.tokens_in, tokens_out + answer.tokens_out
            if answer.reason not in RETRIED or tries >= _TRIES.get(answer.reason, 6):
                break
            if answer.reason in DOUBTFUL and not self.budget.risk(self.budget.bound(request)):
                break
            await self._back_off(tries, wait, answer.reason)
        if answer.reason == "unreachable" and self._replies == replies:
            raise unreachable(self.urls, answer.detail)
        usd = self.budget.cost(tokens_in, tokens_out)
        return replace(answer, model=answer.model or self.model, tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)

    async def _try(self, request: Request, messages: list[dict[str, Any]]) -> tuple[Answer, float | None]:
        """One attempt, and the wait that the server asks for."""
        slot = await self.pace.turn(self.budget.tokens(request) + request.max_tokens, self._ending)
        if self._ending():
            raise _GivenUp
        server = min(self._servers, key=lambda s: (s.rests_until > monotonic(), s.in_flight, s.sent))
        server.in_flight, server.sent = server.in_flight + 1, server.sent + 1
        try:
            reply = await server.client.chat.completions.create(**self._settings(request) | {"messages": messages})
            answer, wait = read_completion(reply), None
        except Exception as error:  # read_error raises again what is no reply
            answer, wait = read_error(error, url=server.url, model=self.model)
        finally:
            server.in_flight -= 1
        if answer.reason == "unreachable":
            server.rests_until = monotonic() + _REST_S
        else:
            self._replies += 1
        if answer.tokens_in:
            self.pace.settle(slot, answer.tokens_in + answer.tokens_out)
        return answer, wait

    async def _back_off(self, tries: int, wait: float | None, reason: str) -> None:
        """Wait for the next attempt: as long as the server asks, at least a doubling time with jitter."""
        if wait is not None and reason == "rate_limited":
            self.pace.hold(wait)
        doubling = min(self.backoff_s * 2 ** (tries - 1), 60.0) * self._jitter.uniform(0.5, 1.0)
        until = monotonic() + max(wait or 0.0, doubling)
        while not self._ending() and (left := until - monotonic()) > 0:
            await asyncio.sleep(min(left, 0.25))

    def _settings(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "max_completion_tokens": request.max_tokens}
        body |= {"temperature": request.temperature} if request.temperature >= 0 else {}
        body |= {"seed": request.seed} if request.seed else {}
        effort = self.params.reasoning_effort
        return body | ({"reasoning_effort": effort} if effort != "default" else {})

    @contextmanager
    def _loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        """An event loop in a thread, with clients; on leaving, whatever still runs is cancelled."""
        self._servers = [_Server(url, _client(url, self.params)) for url in self.urls]
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="openai engine", daemon=True)
        thread.start()
        try:
            yield loop
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(server.client.close() for server in self._servers), return_exceptions=True)


def server_urls(base_url: str) -> list[str]:
    """The servers that `base_url` names (separated by spaces); empty: OPENAI_BASE_URL, else the provider."""
    urls = (base_url or os.environ.get("OPENAI_BASE_URL", "") or PROVIDER).split()
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise InputError(
                f"base_url: {parts.scheme}://{parts.hostname or '?'} … is no server address; write "
                "http://host:port/v1, without user or password (the key stands in OPENAI_API_KEY)"
            )
    return urls


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """The request as chat messages: text, then the image as a data URI, so that servers reuse the shared beginning.

    Raises OSError or ValueError for an image that cannot be read.
    """
    content: Any = request.prompt
    if request.image_id and request.image_path is not None:
        from vislib.pixels import encode_data_uri

        uri = encode_data_uri(request.image_path, side=request.image_side)
        content = [{"type": "text", "text": request.prompt}, {"type": "image_url", "image_url": {"url": uri}}]
    system = [{"role": "system", "content": request.system}] if request.system else []
    return [*system, {"role": "user", "content": content}]


def _client(url: str, params: Any) -> "AsyncOpenAI":
    import httpx2
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    key = os.environ.get("OPENAI_API_KEY", "")
    if not key and url == PROVIDER:
        raise InputError(f"{url} needs a key; set OPENAI_API_KEY in the environment, or base_url to another server")
    timeout = httpx2.Timeout(params.timeout_s, connect=min(params.timeout_s, 10.0))
    limits = httpx2.Limits(max_connections=params.max_in_flight, max_keepalive_connections=params.max_in_flight)
    http = DefaultAsyncHttpxClient(timeout=timeout, limits=limits)
    return AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=http)
