"""What hosts and replies say of use by machines, as facts: robots.txt (RFC 9309), TDMRep (W3C
Community Group, tdmrep.json and headers), Content-Usage (IETF AI preferences), licences.

VisCon-100K and DenseFusion-1M take links of other corpora as they are; those corpora honour some of
these signals. A host is asked once for its two files, like any link; what they say is journalled.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import escape
from itertools import chain
from typing import Any

from vislib.fetching.urls import host_of, web_address

PLACES = ("/robots.txt", "/.well-known/tdmrep.json")
# Of a reply; X-Robots-Tag, of which there may be several, is kept beside them.
HEADERS = ("tdm-reservation", _USAGE := "content-usage", "link")
# Robots that gather training data: who shuts them out means every one of them.
TRAINERS = ("ccbot", "gptbot", "google-extended")
_LINES = re.IGNORECASE | re.MULTILINE
# Agents that follow each other, whatever stands between them but rules, share the rules below.
_GROUP = re.compile(
    r"((?:^[ \t]*user-agent[ \t]*:.*\n"
    r"(?:^(?![ \t]*(?:user-agent|allow|disallow|content-usage)).*\n)*)+)"
    r"((?:^(?![ \t]*user-agent).*\n?)*)",
    _LINES,
)
_AGENT = re.compile(r"^[ \t]*user-agent[ \t]*:[ \t]*([^\s#]+)", _LINES)
_RULE = re.compile(r"^[ \t]*(allow|disallow|content-usage)[ \t]*:([^#\r\n]*)", _LINES)
_MOST = 500_000  # characters of a robots.txt that are read, as the standard has it
_NO = re.compile(r"(?:^|[\s,;])(?:train-ai|ai|bots)\s*=\s*n\b", re.IGNORECASE)
_LICENCE = re.compile(r'<([^>]*)>[^,]*;\s*rel="?license\b')
Rules = list[tuple[str, str]]  # directive and value, in order


def policies(urls: Iterable[str]) -> list[str]:
    """The addresses at which the hosts of `urls` say what machines may do, each once."""
    origins = dict.fromkeys(web_address(url).origin for url in urls if host_of(url))
    return [origin + place for origin in origins for place in PLACES]


@lru_cache(1000)
def groups(text: str) -> Mapping[str, list[Rules]]:
    """The groups of rules of a robots.txt for each agent that it names, and for `*`."""
    found = defaultdict[str, list[Rules]](list)
    for agents, body in _GROUP.findall(text[:_MOST]):
        rules = [(k.lower(), v.strip()) for k, v in _RULE.findall(body)]
        # One list for all of them: a stranger's file may name thousands of agents above thousands
        # of rules.
        for agent in {name.lower() for name in _AGENT.findall(agents)}:
            found[agent].append(rules)
    return found


def rules_of(text: str, agent: str) -> Rules:
    """The rules of a robots.txt for an agent (lower case): of all groups that name it, else of
    `*`.
    """
    named = groups(text)
    return list(chain(*named.get(agent, named.get("*", []))))


def allows(rules: Rules, path: str) -> bool:
    """Whether a path may be asked for: the longest rule that fits decides, and allowing wins."""
    given = [(len(v), k == "allow") for k, v in rules if k != _USAGE and v and fits(v, path)]
    return max(given, default=(0, True))[1]


def fits(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern says, `*` for anything, `$` for its end; in linear time,
    since patterns are strangers'.
    """
    end = "" if pattern.endswith("$") else "*"
    return fnmatchcase(path, escape(pattern.removesuffix("$")).replace("[*]", "*") + end)


def facts(
    url: str, agent: str, text_at: Callable[[str], str], headers: Mapping[str, str]
) -> dict[str, str]:
    """What is said of `url`: `robots` (agents that are shut out), `tdm`, `usage` and `licence`.

    `text_at` gives the text of a host's file, "" for none; headers are those of the reply.
    """
    address = web_address(url)
    path, (robots, tdmrep) = address.pathname + address.search, map(text_at, policies([url]))
    rules = {name: rules_of(robots, name) for name in (agent, *TRAINERS)}
    usages = [value for key, value in rules[agent] if key == _USAGE]
    # A usage may begin with the path that it is for.
    fitting = [value for value in usages if value[:1] != "/" or fits(value.split()[0], path)]
    licence = _LICENCE.search(headers.get("link", ""))
    return {
        "robots": " ".join(name for name, given in rules.items() if not allows(given, path)),
        "tdm": headers.get("tdm-reservation") or _reserved(tdmrep, path),
        "usage": headers.get(_USAGE) or " ".join(fitting),
        "licence": licence[1] if licence else "",
    }


def _reserved(text: str, path: str) -> str:
    """The `tdm-reservation` of the first location that fits; "" where the file says nothing."""
    try:
        rules: list[Any] = json.loads(text or "[]")
        return next(str(r["tdm-reservation"]) for r in rules if fits(str(r["location"]), path))
    except (ValueError, TypeError, LookupError, StopIteration):
        return ""


def refusal(said: Mapping[str, str]) -> str:
    """The first of the facts that keeps an image out of training, with its name; "" for none."""
    no = {"robots": said["robots"], "tdm": said["tdm"] == "1", "usage": _NO.search(said["usage"])}
    return next((f"{name}: {said[name]}" for name, refuses in no.items() if refuses), "")
