"""One server of the chat protocol: the official client, in the words that this server knows
(VisCon-100K, section 3.2).
"""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from vislib.engines import Json
from vislib.engines.replies import Reply, client_error, other_words, read_body, read_error
from vislib.runs import InputError

PROVIDER = "https://api.openai.com/v1"
HERE = ("127.0.0.1", "::1", "localhost")


def server_urls(base_url: str) -> list[str]:
    """The servers that `base_url` names (separated by spaces); empty: OPENAI_BASE_URL, else the
    provider.
    """
    urls = (base_url or os.environ.get("OPENAI_BASE_URL", "") or PROVIDER).split()
    for number, url in enumerate(urls, start=1):
        try:
            parts = urlsplit(url)
            secret = parts.username or parts.password or parts.query
            served = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            sound = served and not secret
        except ValueError:  # a port that is none, half an IPv6 address
            sound = False
        if not sound:  # the message must not repeat what is secret
            raise InputError(
                f"base_url: address {number} is no server's; write http://host:port/v1, without"
                " user, password or query (the key stands in OPENAI_API_KEY)"
            )
    return urls


def proxied(url: str) -> bool:
    """Whether the environment's proxy stands before the server at `url`: before none of this
    machine.
    """
    return urlsplit(url).hostname not in HERE


def api_key(url: str) -> str:
    """The key of the environment; raises InputError if it cannot be one, or if there is none and
    `url` needs it.
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key and url == PROVIDER:
        raise InputError(
            f"{url} needs a key; set OPENAI_API_KEY in the environment, or base_url to another"
            " server"
        )
    # the HTTP library would raise for it with the key in its message
    if not re.fullmatch(r"[!-~]*", key):
        raise InputError(
            "OPENAI_API_KEY holds a blank, a line end or a character outside ASCII; set it anew"
        )
    # servers of one's own take any key, and the client refuses to send none
    return key or "none"


class ChatClient:
    """Asks the server at `url`; every reply, and the lack of one, comes back as a `Reply`."""

    def __init__(self, url: str, params: Any) -> None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        most = params.max_in_flight
        http = DefaultAsyncHttpxClient(
            timeout=httpx2.Timeout(params.timeout_s, connect=min(params.timeout_s, 10.0)),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            trust_env=proxied(url),
        )
        self._client = AsyncOpenAI(
            base_url=url,
            api_key=api_key(url),
            # retries are ours: they count against the ceiling, and give up their place
            max_retries=0,
            http_client=http,
        )
        self._url = url
        self._params = params
        # what it calls a setting, "" for one that it does not take
        self._words = dict[str, str]()
        # whether an answer cut before its bound may mean that the bound was not understood
        self._cut_short = True
        self._heard = False  # has answered: then a 403 or 404 is about one request
        self.close = self._client.close

    async def ask(self, body: Json, *, other: Mapping[str, str] = {}) -> Reply:
        """One attempt, with `other` words than are known to be taken. Raises InputError for what no
        other request would survive.
        """
        import httpx2
        import openai

        words = {**self._words, **other}
        sent = {name: value for n, value in body.items() if (name := words.get(n, n))}
        post = self._client.post
        headers: Mapping[str, str] = {}
        try:
            # the client's own counts from byte to byte
            async with asyncio.timeout(self._params.timeout_s):
                reply = await post("/chat/completions", body=sent, cast_to=httpx2.Response)
            headers = reply.headers
            answer = read_body(reply.content)
        except Exception as raised:  # read_error raises again what is no reply
            if isinstance(raised, openai.APIStatusError):
                headers = raised.response.headers
            error = client_error(raised)
            if found := other_words(error, sent, heard=self._heard):
                return await self.ask(body, other={**other, **found})
            model, heard = self._params.model, self._heard
            failure = read_error(error, url=self._url, model=model, heard=heard)
            return Reply(failure, headers)
        bound = sent.get("max_completion_tokens", 0)
        if answer.reason == "length" and answer.tokens_out < bound and self._cut_short:
            # servers that know only the older name ignore the newer one, and cut by their default
            again = await self.ask(body, other={**other, "max_completion_tokens": "max_tokens"})
            # else it was not for the name of the bound
            self._cut_short = again.answer.status == "ok"
            return again._replace(answer=again.answer.plus(answer))
        if answer.status == "ok":  # else it was not for these words
            self._heard = True
            self._words |= other
        return Reply(answer, headers)
