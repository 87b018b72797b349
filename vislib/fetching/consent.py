"""What hosts and replies say of use by machines, as facts: robots.txt (RFC 9309), TDMRep (W3C
Community Group, tdmrep.json and headers), Content-Usage (IETF AI preferences), licences.

VisCon-100K and DenseFusion-1M take links of other corpora as they are; those corpora honour some of
these signals. A host is asked once for its two files, like any link; what they say is journalled.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from vislib.fetching.urls import web_address
from vislib.media.pixels import ImageError

PLACES = ("/robots.txt", "/.well-known/tdmrep.json")
# Of a reply; X-Robots-Tag, of which there may be several, is kept beside them.
HEADERS = ("tdm-reservation", _USAGE := "content-usage", "link")
# Robots that gather training data: who shuts them out means every one of them.
TRAINERS = ("ccbot", "gptbot", "google-extended")
_NO = re.compile(r"(?:^|[\s,;])(?:train-ai|ai|bots)\s*=\s*n\b", re.IGNORECASE)
_LICENCE = re.compile(r'<([^>]*)>[^,]*;\s*rel="?license\b')
Rules = list[tuple[str, str]]  # directive and value, in order


def policies(urls: Iterable[str]) -> Iterator[str]:
    """The addresses at which the hosts of `urls` say what machines may do, each once."""
    seen = set[str]()
    for url in urls:
        try:
            origin = web_address(url).origin
        except ImageError:
            continue
        if origin not in seen:
            seen.add(origin)
            yield from (origin + place for place in PLACES)


@lru_cache(1000)
def groups(text: str) -> Mapping[str, Rules]:
    """The rules of a robots.txt for each agent that it names, and for `*`."""
    found, agents, naming = defaultdict[str, Rules](list), list[str](), False
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition("#")[0].partition(":"))
        if key.lower() == "user-agent":
            # Agents that follow each other share the rules below them.
            agents, naming = [*(agents if naming else ()), value.lower()], True
        elif key.lower() in ("allow", "disallow", _USAGE):
            naming = False
            for agent in agents:
                found[agent].append((key.lower(), value))
    return found


def allows(rules: Rules, path: str) -> bool:
    """Whether a path may be asked for: the longest rule that fits decides, and allowing wins."""
    fitting = [
        (len(v), k == "allow") for k, v in rules if k[-5:] == "allow" and v and fits(v, path)
    ]
    return max(fitting, default=(0, True))[1]


def fits(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern says, `*` for anything, `$` for its end."""
    text = re.escape(pattern).replace(r"\*", ".*")
    return bool(re.match(re.sub(r"\\\$$", r"\\Z", text), path))


def facts(
    url: str, agent: str, text_at: Callable[[str], str], headers: Mapping[str, str]
) -> dict[str, str]:
    """What is said of `url`: `robots` (agents that are shut out), `tdm`, `usage` and `licence`.

    `text_at` gives the text of a host's file, "" for none; headers are those of the reply.
    """
    address = web_address(url)
    path, (robots, tdmrep) = address.pathname + address.search, map(text_at, policies([url]))
    named = groups(robots)
    rules = {name: named.get(name, named.get("*", [])) for name in (agent, *TRAINERS)}
    usages = [value for key, value in rules[agent] if key == _USAGE]
    # A usage may begin with the path that it is for.
    usages = [value for value in usages if value[:1] != "/" or fits(value.split()[0], path)]
    licence = _LICENCE.search(headers.get("link", ""))
    return {
        "robots": " ".join(name for name, given in rules.items() if not allows(given, path)),
        "tdm": headers.get("tdm-reservation") or _reserved(tdmrep, path),
        "usage": headers.get(_USAGE) or " ".join(usages),
        "licence": licence[1] if licence else "",
    }


def _reserved(text: str, path: str) -> str:
    """The `tdm-reservation` of the first location that fits; "" where the file says nothing."""
    try:
        rules: list[Any] = json.loads(text or "[]")
        return next(str(r["tdm-reservation"]) for r in rules if fits(r["location"], path))
    except (ValueError, TypeError, LookupError, StopIteration):
        return ""


def refusal(said: Mapping[str, str]) -> str:
    """The first of the facts that keeps an image out of training, with its name; "" for none."""
    refusing = {
        "robots": said["robots"],
        "tdm": said["tdm"] == "1",
        "usage": _NO.search(said["usage"]),
    }
    return next((f"{name}: {said[name]}" for name, found in refusing.items() if found), "")
