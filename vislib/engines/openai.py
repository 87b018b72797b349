"""Engine `openai`: any server that speaks the OpenAI chat protocol (VisCon-100K, sections 3.2 and
3.3).

The official client sends; what is kept, retried, paced and paid is decided here. Requests stream
from an iterator and at most `max_in_flight` are under way at once, images read and scaled only when
their turn comes. The loop runs in a thread of its own, so that a notebook's kernel, which runs one
already, can call it.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from anyio.from_thread import start_blocking_portal

from vislib.engines import Answer, Answered, Json, Request
from vislib.engines.budget import Budget, marks_cache, most_tokens
from vislib.engines.completions import failure
from vislib.engines.replies import RETRIED, SILENT, Reply, silent
from vislib.engines.servers import Balancer, Server
from vislib.engines.transport import PROVIDER, ChatClient, server_urls
from vislib.runs import InputError
from vislib.runs.digests import content_hash, folder_facts
from vislib.runs.keys import expand

# Refused for the rate, which passes for sure; failed otherwise, which may not.
_TRIES = {True: 12, False: 6}
_LONGER = {True: 2, False: 3}  # times the pause before
_LONGEST_PAUSE_S = 60.0
_EXPLICIT = {"mode": "explicit"}


class OpenAIChat:
    """Asks `params.model` at one server or at several in balance; rate limits hold at each of them.

    If the model's `folder` is on this machine, answers are known by its content, not by its name.
    """

    name = journal = "openai"
    # before the first retry; `_LONGER` times as long before each further one
    backoff_s = 0.15
    places: list[str]  # servers that must be up before anything is asked

    def __init__(self, params: Any, folder: Path | None = None) -> None:
        if not params.model:
            raise InputError("model is empty; name the model as the server at base_url calls it")
        self.params = params
        self.model = params.model
        self.urls = self.places = server_urls(params.base_url)
        self.budget = Budget(params)
        self._identity = self.model
        # a base_url may serve a folder of this machine under its path
        folder = folder or Path(self.model).expanduser()
        # whether nothing but a name says which model answers
        self.is_known_by_name = not folder.is_dir()
        if not self.is_known_by_name:
            self._identity = content_hash(folder_facts(folder, expand(folder)))[:16]
        self.stop = threading.Event()
        self._halt: InputError | None = None
        self._heard_at = 0.0
        self._jitter = random.Random()  # moves the time of a retry, never an answer

    def basis(self, request: Request) -> Json:
        """The reasoning effort, the revision if one is named, and the hash of the weights for a
        folder's name.
        """
        basis = {"model": self._identity, "reasoning_effort": self.params.reasoning_effort}
        # without one, keys are as they were before there were revisions
        if self.params.model_revision:
            basis["model_revision"] = self.params.model_revision
        return basis

    def answer(self, requests: Iterable[Request]) -> Answered:
        """Answers as they come; see `Engine`."""
        self._halt = None
        under_way: dict[Future[Answer | None], tuple[Request, float]] = {}
        ended = SimpleQueue[Future[Answer | None]]()
        waiting = iter(requests)
        held: Request | None = None  # by the ceiling
        with self._loop() as loop:
            while True:
                # one alone until it has shown what a request costs
                most = self.params.max_in_flight if self.budget.proven else 1
                while not self.stop.is_set() and len(under_way) < most:
                    if not (request := held or next(waiting, None)):
                        break
                    bound = self.budget.bound(request)
                    if not self.budget.reserve(bound):
                        held = request  # until an answer under way has cost less than its bound
                        if not under_way:
                            self._end(self.budget.exhausted(bound))
                        break
                    held = None
                    # unlike a portal's task, begun without waiting for the other thread
                    asked = asyncio.run_coroutine_threadsafe(self._ask(request, bound), loop)
                    under_way[asked] = request, bound
                    asked.add_done_callback(ended.put)
                if not under_way:
                    break
                if self.stop.is_set():
                    loop.call_soon_threadsafe(self._servers.give_up)
                try:
                    done = ended.get(timeout=0.2)
                except Empty:  # look whether there was an interrupt, which no request tells of
                    continue
                request, bound = under_way.pop(done)
                self.budget.reserved -= bound
                if answer := done.result():
                    yield request, answer
        if self._halt:
            raise self._halt

    def _end(self, error: InputError) -> None:
        """Begin nothing more; the first error is raised when what is under way has ended."""
        self._halt = self._halt or error
        self.stop.set()

    # -- in the loop's thread
    async def _ask(self, request: Request, bound: float) -> Answer | None:
        """Ask until there is an answer or a failure that stays; None if it was given up unpaid."""
        try:
            if request.image_id:  # which takes milliseconds, in which the loop shall serve others
                body = await asyncio.to_thread(self._body, request)
            else:
                body = self._body(request)
        except (OSError, ValueError) as error:
            return failure("image_unreadable", error)
        tokens = most_tokens(request) + request.max_tokens
        tries = Counter[bool]()  # refused for the rate, failed otherwise
        total = Answer()  # the last one, with tokens and USD of all
        server = None
        wait: float | None = 0.0
        began = unheard_since = 0.0
        try:
            while wait is not None:
                reply, server, begun = await self._servers.send(
                    body, tokens, after=wait, avoid=server
                )
                began = began or begun
                if reply.answer.reason in SILENT:
                    unheard_since = unheard_since or begun
                else:
                    self._heard_at, unheard_since = monotonic(), 0.0
                usd = self.budget.pay(reply.answer, bound)
                total = replace(reply.answer, usd=usd).plus(total)
                wait = self._until_next(reply, tries)
            if self._heard_at < unheard_since:  # nobody else was heard meanwhile
                raise silent(reply.answer.reason, self.urls, reply.answer.detail)
        except (InputError, asyncio.CancelledError) as error:
            if isinstance(error, InputError):
                self._end(error)
            # what was billed stays in the books
            if not (total.tokens_in or total.usd):
                return None
        seconds = round(monotonic() - began, 3)
        return replace(total, model=total.model or self.model, seconds=seconds)

    def _until_next(self, reply: Reply, tries: Counter[bool]) -> float | None:
        """Seconds until the next attempt, few at first; None for none: the reply is for good, or
        what attempts may have cost leaves no room. As the server says, unless it has told all of
        us.
        """
        refused = reply.answer.reason == "rate_limited"
        tries[refused] += 1
        more = reply.answer.reason in RETRIED and tries[refused] < _TRIES[refused]
        if not (more and self.budget.has_room()):
            return None
        longer: float = self.backoff_s * _LONGER[refused] ** (tries[refused] - 1)
        # jitter, so that what failed together does not come again together
        pause = min(longer, _LONGEST_PAUSE_S) * self._jitter.uniform(0.5, 1.0)
        return max(pause, 0.0 if refused else reply.wait or 0.0)

    def _body(self, request: Request) -> Json:
        """What is sent. Raises OSError or ValueError for an image that cannot be read."""
        # only the provider itself knows these words
        marked = self.urls == [PROVIDER] and marks_cache(self.model)
        body: Json = {
            "model": self.model,
            "messages": chat_messages(request, marked=marked),
            "max_completion_tokens": request.max_tokens,
        }
        if marked:
            body["prompt_cache_options"] = _EXPLICIT
        # models that think refuse a temperature
        if request.temperature >= 0:
            body["temperature"] = request.temperature
        if request.seed:
            body["seed"] = request.seed
        if self.params.reasoning_effort != "default":
            body["reasoning_effort"] = self.params.reasoning_effort
        if request.schema:
            schema = {"name": "rounds", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    @contextmanager
    def _loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        """An event loop in a thread, with clients; left by an error, it cancels what still runs."""
        clients = [ChatClient(url, self.params) for url in self.urls]
        self._servers = Balancer([Server(client, self.params) for client in clients])
        # the kernel of a notebook runs a loop in its main thread already
        with start_blocking_portal() as portal:
            try:
                yield portal.call(asyncio.get_running_loop)
            finally:
                for client in clients:
                    portal.call(client.close)


def chat_messages(request: Request, *, marked: bool = False) -> list[Json]:
    """The request as chat messages: text, then the image as a data URI, so that servers reuse the
    shared beginning; `marked`: with a breakpoint behind that and nowhere else.

    Since gpt-5.6 OpenAI finds the beginning of a prompt again only up to a breakpoint, and charges
    a quarter more for what is written to its cache. Left to itself it sets the breakpoint behind
    the last message, where each of our requests differs: all is written, and nothing is ever read.
    Raises OSError or ValueError for an image that cannot be read.
    """
    shared = request.shared if marked else 0
    texts = filter(None, (request.prompt[:shared], request.prompt[shared:]))
    parts: list[Json] = [{"type": "text", "text": text} for text in texts]
    if shared:
        parts[0]["prompt_cache_breakpoint"] = _EXPLICIT
    if request.image_id and request.image_path:
        from vislib.media.pixels import encode_data_uri

        image = {"url": encode_data_uri(request.image_path, side=request.image_side)}
        parts.append({"type": "image_url", "image_url": image})
    system = [{"role": "system", "content": request.system}] if request.system else []
    plain = len(parts) == 1 and not marked
    return [*system, {"role": "user", "content": request.prompt if plain else parts}]
