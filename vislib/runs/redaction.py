"""No secret lands in an artefact: which names are secret, and how their values leave any text that
is kept.
"""

import html
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

SECRET_NAME = re.compile(
    r"(^|_)(api_?key|secret|password|credential|(hf|auth|access|api)_token)$", re.IGNORECASE
)
# A word of the variable's name must end so: HUGGING_FACE_HUB_TOKEN, AWS_ACCESS_KEY_ID, PGPASSWORD,
# but neither TOKENIZERS_PARALLELISM nor KEYBOARD; PWD is the folder of a shell, MYSQL_PWD a
# password.
_SECRET_VARIABLE = re.compile(
    r"(key|token|secret|password|passwd|passphrase|credential|_pwd|_pass)s?(?=[^a-z]|$)|(^|_)(auth|pat|jwt)$",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"^[a-z][a-z0-9+.-]*://[^/\s:@]*:([^/\s]+)@", re.IGNORECASE
)  # DATABASE_URL, HTTPS_PROXY
# addresses, paths, account ids, pieces of keys: what servers and systems name in errors
_PLACE = re.compile(
    r"\w+://[^\s'\"]+|(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?|(?<![\w.])~?/(?:[\w.@+-]+/)+[\w.@+-]*|\b(?:org|proj|sk)-[\w*-]+"
)
_SHORTEST = 12  # shorter values would match ordinary words


def secret_values() -> dict[str, str]:
    """Values of the environment's secret variables, by variable name; those under 12 characters are
    left out.

    Of an address with a login in it the password alone is secret; a path that exists (to a key
    file) is none.
    """
    found = {name: _secret_part(name, value) for name, value in os.environ.items()}
    return {name: value for name, value in found.items() if len(value) >= _SHORTEST}


# Remembered, since every journalled answer asks: a look at the disk for each lets other threads in.
@lru_cache(maxsize=1024)
def _secret_part(name: str, value: str) -> str:
    """What is secret of a variable's value; "" if nothing is."""
    if login := _LOGIN.match(value):
        return login[1]
    return value if _SECRET_VARIABLE.search(name) and not os.path.exists(value) else ""


def redact(text: str) -> str:
    """`text` with every secret value replaced by its variable's name in brackets."""
    # looked up each time: a notebook may set a key while it runs
    for name, value in secret_values().items():
        for form in _forms(value):
            text = text.replace(form, f"[{name} removed]")
    return text


@lru_cache(maxsize=256)
def _forms(value: str) -> tuple[str, ...]:
    """How a value stands in text, JSON, notebook.html and addresses; the longest form first."""
    plain = {value, unquote(value)}
    forms = plain | {repr(form)[1:-1] for form in plain}
    forms |= {html.escape(form, quote=quotes) for form in forms for quotes in (True, False)}
    forms |= {
        json.dumps(form, ensure_ascii=ascii)[1:-1] for form in forms for ascii in (True, False)
    }
    forms |= {
        encode(form, safe="", errors="surrogateescape")
        for form in plain
        for encode in (quote, quote_plus)
    }
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))


def write_redacted(file: Path, text: str) -> None:
    """Write `text` without secrets, whole or not at all.

    Half a character, as names of files may hold, becomes an escape, which JSON reads back as it
    was.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(redact(text), encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk needs the room
        raise


def without_places(text: str) -> str:
    """`text` without addresses, paths and account ids: `dropped` and exported answers are
    published.
    """
    # a detail stays readable: what was refused matters, not where
    return _PLACE.sub("[removed]", text)
