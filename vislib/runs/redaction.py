"""No secret lands in an artefact: which names are secret, and how their values leave any text that is kept."""

import html
import json
import os
import re

SECRET_NAME = re.compile(r"(^|_)(api_?key|secret|password|credential|(hf|auth|access|api)_token)$", re.IGNORECASE)
_PLACE = re.compile(  # addresses, paths, account ids, pieces of keys: what servers and systems name in errors
    r"\w+://[^\s'\"]+|(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?|(?<![\w.])~?/(?:[\w.@+-]+/)+[\w.@+-]*|\b(?:org|proj|sk)-[\w*-]+"
)
_SHORTEST = 12  # shorter values would match ordinary words


def secret_values() -> dict[str, str]:
    """Values of the environment's secret variables, by variable name; those under 12 characters are left out."""
    return {name: value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= _SHORTEST}


def redact(text: str) -> str:
    """`text` with every secret value replaced by its variable's name in brackets."""
    for name, value in secret_values().items():
        shown = {value, repr(value)[1:-1]}
        shown |= {html.escape(form, quote=quote) for form in shown for quote in (True, False)}
        written = {json.dumps(form, ensure_ascii=ascii)[1:-1] for form in shown for ascii in (True, False)}
        for form in sorted(shown | written, key=len, reverse=True):  # as text, JSON and notebook.html hold it
            text = text.replace(form, f"[{name} removed]")
    return text


def without_places(text: str) -> str:
    """`text` without addresses, paths and account ids: `dropped` and exported answers are published."""
    return _PLACE.sub("[removed]", text)
