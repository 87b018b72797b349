"""Engine `openai`: any server that speaks the OpenAI chat protocol (VisCon-100K, sections 3.2 and
3.3).

The official client sends; what is kept, retried, paced and paid is decided here. Requests stream
from an iterator and at most `max_in_flight` are under way at once (as many again may wait for
another try), images read and scaled only when their turn comes. The loop runs in a thread of its
own, so that a notebook's kernel, which runs one already, can call it.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from vislib.engines import Answer, Answered, Request
from vislib.engines.breakpoints import with_breakpoint
from vislib.engines.budget import Budget
from vislib.engines.chat_client import ChatClient, server_urls
from vislib.engines.replies import DOUBTFUL, RETRIED, Reply, refusing, unreachable
from vislib.engines.servers import GivenUp, Server, Turns
from vislib.runs.digests import content_hash, folder_facts
from vislib.runs.errors import InputError
from vislib.runs.keys import expand

_USED = ("tokens_in", "tokens_cached", "tokens_written", "tokens_out")
_TRIES, _LONGER = (
    {True: 12, False: 6},
    {True: 2, False: 3},
)  # refused for the rate; failed otherwise

_NO_WORD = {"unreachable": unreachable, "rate_limited": refusing}


@dataclass(eq=False)
class _Asked:
    """A request under way: what is reserved for it, what its attempts took, how its last one
    ended.
    """

    request: Request
    bound: float  # USD
    began: float = 0.0
    tries: Counter[bool] = field(default_factory=Counter)  # refused for the rate, failed otherwise
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_USED, 0))
    doubt: float = 0.0  # USD that attempts without an answer may have cost
    last: Answer | None = None


class OpenAIChat:
    """Asks `params.model` at one server or at several in balance; rate limits hold at each of them.

    If the model's `folder` is on this machine, answers are known by its content, not by its name.
    """

    name = journal = "openai"
    backoff_s = (
        0.15  # before the first retry, three times as long before each further one, up to a minute
    )

    def __init__(self, params: Any, folder: Path | None = None) -> None:
        if not params.model:
            raise InputError("model is empty; name the model as the server at base_url calls it")
        self.params, self.model, self.urls = params, params.model, server_urls(params.base_url)
        self.budget = Budget(params)
        folder = folder or Path(self.model).expanduser()
        self._identity = (
            content_hash(folder_facts(folder, expand(folder)))[:16]
            if folder.is_dir()
            else self.model
        )
        self.stop = threading.Event()
        self._halt: InputError | None = None
        self._held: Request | None = None  # by the ceiling
        self._replies = 0
        self._jitter = random.Random()  # moves the time of a retry, never an answer

    def basis(self, request: Request) -> Mapping[str, Any]:
        """The reasoning effort, the revision if one is named, and the hash of the weights for a
        folder's name.
        """
        revision = getattr(self.params, "model_revision", "")
        named = (
            {"model_revision": revision} if revision else {}
        )  # without one, keys are as they were before it
        return {"model": self._identity, "reasoning_effort": self.params.reasoning_effort, **named}

    @property
    def places(self) -> list[str]:
        """Servers that must be up before anything is asked."""
        return self.urls

    @property
    def is_known_by_name(self) -> bool:
        """Whether nothing but a name says which model answers."""
        return bool(self._identity == self.model)

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Answered:
        """Answers as they come; see `Engine`."""
        self.budget.spent, self._halt, self._held = spent, None, None
        self._done = SimpleQueue[tuple[_Asked, asyncio.Task[Answer]] | None]()
        waiting, self._open = iter(requests), 0
        with self._loop() as loop:
            while True:
                for asked in self._admitted(waiting):
                    loop.call_soon_threadsafe(self._start, asked)
                if not self._open:
                    break
                if done := self._next_done(loop):
                    self._open -= 1
                    if (result := self._settled(*done)) is not None:
                        yield done[0].request, result
        if self._halt:
            raise self._halt

    def _admitted(self, waiting: Iterator[Request]) -> Iterator[_Asked]:
        """Requests that may go now, the cost of each reserved; halts at the ceiling."""
        most = self.params.max_in_flight if self.budget.proven else 1
        while not self._ending() and self._open < min(most + self._turns.sleeping, 2 * most):
            request, self._held = self._held or next(waiting, None), None
            if request is None:
                return
            bound = self.budget.bound(request)
            if not self.budget.reserve(bound):
                self._held = request  # until an answer under way has cost less than its bound
                if not self._open:
                    self._halt = self.budget.exhausted(bound)
                return
            self._open += 1
            yield _Asked(request, bound)

    def _next_done(
        self, loop: asyncio.AbstractEventLoop
    ) -> tuple[_Asked, asyncio.Task[Answer]] | None:
        """Wait for a request to be done; None when one begins to wait for another try, and now and
        then.
        """
        try:
            done = self._done.get(timeout=0.2)
        except Empty:
            done = None
        if self._ending():
            loop.call_soon_threadsafe(self._turns.give_up)
        return done

    def _settled(self, asked: _Asked, task: asyncio.Task[Answer]) -> Answer | None:
        """The answer of a request that is done, its reservation replaced by its cost; None if it
        was given up.
        """
        try:
            answer = task.result()
            self.budget.settle(asked.bound, asked.last or answer)
            unknown = (
                answer.status == "ok" and not answer.tokens_in
            )  # the server does not tell: the bound counts
            return replace(answer, usd=answer.usd + asked.bound) if unknown else answer
        except InputError as error:
            self._halt = self._halt or error
        except GivenUp:
            pass
        self.budget.settle(asked.bound, None)
        billed = (
            asked.last if asked.used["tokens_in"] or asked.doubt else None
        )  # stays in the books
        return self._summed(asked, billed) if billed else None

    def _ending(self) -> bool:
        return self._halt is not None or self.stop.is_set()

    # -- in the loop's thread
    def _start(self, asked: _Asked) -> None:
        task = asyncio.create_task(self._ask(asked))
        task.add_done_callback(lambda task: self._done.put((asked, task)))

    async def _ask(self, asked: _Asked) -> Answer:
        """Ask until there is an answer or a failure that stays."""
        request, server, wait, replies = asked.request, None, 0.0, 0
        try:
            messages = (
                await asyncio.to_thread(chat_messages, request)
                if request.image_id
                else chat_messages(request)
            )
        except (OSError, ValueError) as error:
            return Answer(status="failed", reason="image_unreadable", detail=str(error)[:200])
        body = with_breakpoint(
            self._settings(request) | {"messages": messages}, request, urls=self.urls
        )
        tokens = self.budget.tokens(request) + request.max_tokens
        while True:
            reply, server, begun = await self._turns.send(body, tokens, after=wait, avoid=server)
            answer, asked.began = reply.answer, asked.began or begun
            self._replies += answer.reason not in _NO_WORD
            if not asked.tries or answer.reason not in _NO_WORD:
                replies = self._replies  # as it began to go unheard
            if not self._again(asked, answer):
                break
            wait = self._wait(asked, reply)
        if (
            answer.reason in _NO_WORD and self._replies == replies
        ):  # and nobody else was heard meanwhile
            raise _NO_WORD[answer.reason](self.urls, answer.detail)
        return self._summed(asked, answer)

    def _again(self, asked: _Asked, answer: Answer) -> bool:
        """Count an attempt; whether to try again: not for good, and what this one may have cost
        leaves room.
        """
        used: dict[str, int] = {name: getattr(answer, name) for name in _USED}
        asked.last = replace(answer, usd=self.budget.cost(**used))
        asked.used = {name: n + used[name] for name, n in asked.used.items()}
        asked.tries[refused := answer.reason == "rate_limited"] += 1
        final = answer.reason not in RETRIED or asked.tries[refused] >= _TRIES[refused]
        doubt = asked.bound if answer.reason in DOUBTFUL and not answer.tokens_in else 0.0
        asked.doubt += doubt
        if final and not doubt:  # it is settled
            return False
        return self.budget.risk(doubt or asked.last.usd) and not final

    def _wait(self, asked: _Asked, reply: Reply) -> float:
        """Seconds until the next attempt, few at first; as the server says, unless it has told all
        of us.
        """
        refused = reply.answer.reason == "rate_limited"
        longer: float = min(self.backoff_s * _LONGER[refused] ** (asked.tries[refused] - 1), 60.0)
        return max(longer * self._jitter.uniform(0.5, 1.0), 0.0 if refused else reply.wait or 0.0)

    def _summed(self, asked: _Asked, answer: Answer) -> Answer:
        """`answer` with what all attempts took."""
        used: dict[str, Any] = {"usd": self.budget.cost(**asked.used) + asked.doubt, **asked.used}
        return replace(
            answer,
            model=answer.model or self.model,
            seconds=round(monotonic() - asked.began, 3),
            **used,
        )

    def _settings(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "max_completion_tokens": request.max_tokens}
        body |= {"temperature": request.temperature} if request.temperature >= 0 else {}
        body |= {"seed": request.seed} if request.seed else {}
        effort = self.params.reasoning_effort
        body |= {"reasoning_effort": effort} if effort != "default" else {}
        if request.schema:
            schema = {"name": "rounds", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    @contextmanager
    def _loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        """An event loop in a thread, with clients; on leaving, whatever still runs is cancelled."""
        clients = [ChatClient(url, self.params) for url in self.urls]
        servers = [Server(client, self.params, rest_s=self.backoff_s) for client in clients]
        self._turns = Turns(
            servers, self.params.max_in_flight, put_off=lambda: self._done.put(None)
        )
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="openai engine", daemon=True)
        thread.start()
        try:
            yield loop
        finally:
            asyncio.run_coroutine_threadsafe(_close(clients), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _close(clients: list[ChatClient]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """The request as chat messages: text, then the image as a data URI, so that servers reuse the
    shared beginning.

    Raises OSError or ValueError for an image that cannot be read.
    """
    content: Any = request.prompt
    if request.image_id and request.image_path is not None:
        from vislib.media.pixels import encode_data_uri

        uri = encode_data_uri(request.image_path, side=request.image_side)
        content = [
            {"type": "text", "text": request.prompt},
            {"type": "image_url", "image_url": {"url": uri}},
        ]
    system = [{"role": "system", "content": request.system}] if request.system else []
    return [*system, {"role": "user", "content": content}]
