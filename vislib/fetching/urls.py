"""Reading the address of a linked file as browsers do (the URL standard, url.spec.whatwg.org).

Pages write addresses over several lines, with blanks around them, backslashes and characters of any
script. Tables keep an address as it was found; whoever asks for its file reads it here.
"""

import re

from ada_url import URL

from vislib.media.pixels import ImageError

_AROUND = "".join(map(chr, range(0x21))) + "\ufeff"  # C0 controls and the space; a byte order mark
_WITHIN = dict.fromkeys(map(ord, "\t\n\r"))


def tidied(url: str) -> str:
    """`url` without what the standard drops: white space around it, tabs and line ends within.

    An address that leaves its scheme to the page (`//host/path`) becomes http, from which a server
    leads on to https.
    """
    text = url.strip(_AROUND).translate(_WITHIN)
    return f"http:{text}" if re.match(r"[/\\]{2}", text) else text


def web_address(url: str, base: URL | None = None) -> URL:
    """The http or https address of a file, its host in ASCII; raises ImageError `bad_url` for any
    other.

    `base` is the address of what holds the link, for a link that is relative to it.
    """
    try:
        address = URL(url, base.href) if base else URL(tidied(url))
    except ValueError as error:
        raise ImageError("bad_url", "not the address of a file") from error
    if address.protocol not in ("http:", "https:") or address.username or address.password:
        said = "not the http or https address of a file, without user or password"
        raise ImageError("bad_url", said)
    if address.port == "0":
        raise ImageError("bad_url", "port 0")
    return address


def host_of(url: str) -> str:
    """Host and port of a web address; "" if it is none."""
    try:
        return web_address(url).host
    except ImageError:
        return ""
