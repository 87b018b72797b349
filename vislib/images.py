"""Stage 03: from image links to verified image files, and a ledger of every link (VisCon-100K,
section 3.1).

OBELICS carries links, not pictures, and links rot: each distinct address of the samples is asked
for once, what comes is decoded within limits, stored once by the hash of its bytes, and described
in a row. What failed has a row too, with its reason. The address is that of the page's `images`:
`src` in its metadata may differ, since `images` may name a mirror's copies, and nothing is asked
there. A source answers for addresses: the web (asked before by `vislib.fetching`, each link once
for all runs), the embedded pictures, or a folder that mirrors the web.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote_to_bytes

from vislib.fetching.links import Links, store
from vislib.fetching.urls import host_of, web_address
from vislib.media.pixels import ENDINGS, ImageError, verify
from vislib.runs import Drop, InputError, Run, To, short_hash, sql
from vislib.runs.contract import CONSENT, IMAGES
from vislib.runs.tables import Row, read_rows
from vislib.runs.verbs import Said

EMBEDDED = "sample"
UNIT = "image_url"
URLS_PER_PART = 500  # of the ledger: small enough that workers share a few thousand links
USABLE = "SELECT image_url FROM images WHERE status = 'ok'"
_PICTURE_ENDINGS = {f".{ending}" for ending in (*ENDINGS.values(), "jpeg", "tiff", "svg")}


# Bytes behind an address, or the file that keeps them, or ImageError. Workers are processes:
# importable.
Source = Callable[[str], bytes | Path]


def addresses(*, limit: int = 0, seed: int = 0) -> str:
    """The query of each distinct address of `samples`, in order of first appearance; with `limit`
    (0: all) so many, chosen by the hash of seed and address.
    """
    # The rule of `seeding.choose`, in SQL: the hash decides, whatever the order of rows.
    by_chance = f"ORDER BY sha256('{seed}' || chr(0) || image_url) LIMIT {limit}"
    return f"""
    SELECT image_url
    FROM (SELECT image_url, min(row) AS first FROM samples GROUP BY image_url
          {by_chance if limit else ""})
    ORDER BY first
    """


def open_source(run: Run, links: Path) -> Source:
    """The source that the parameter `images_root` names. The web is asked at once for the table
    `links`, as far as its journal does not know them.
    """
    root, folder = run.params.images_root, run.input("images_root")
    if root == EMBEDDED:
        return from_sample
    if folder is None:
        # Late: workers need the journal alone, and no client.
        from vislib.fetching.fetcher import ask_all

        return ask_all(run, Links.of(run.journal_path("images"), run.params), links)
    if not folder.is_dir():
        raise InputError(
            f"03_images: images_root is {root!r}, but {folder} is no folder; name a folder that"
            f" mirrors URL paths, {EMBEDDED!r} for the embedded pictures, or nothing for the web"
        )
    return partial(from_folder, root=Path(os.path.abspath(folder)), max_bytes=run.params.max_bytes)


def describe(
    links: Iterable[Row],
    *,
    source: Source,
    folder: Path,
    max_bytes: int,
    max_pixels: int,
    min_side: int,
    licences: Mapping[str, str] | None = None,
) -> Iterator[Said]:
    """A row of the ledger for each address: its file, verified and stored below `folder`, or why
    there is none; and what was said of its use by machines, a licence of its host included.
    """
    for row in links:
        facts = dict.fromkeys(IMAGES.names) | {UNIT: row[UNIT]}
        try:
            given = source(row[UNIT])
            data = given if isinstance(given, bytes) else given.read_bytes()
            found = verify(data, max_bytes=max_bytes, max_pixels=max_pixels)
            if min(found.width, found.height) < min_side:
                size = f"{found.width} x {found.height}"
                raise ImageError("too_small", f"{size}, at least {min_side} a side")
        except ImageError as error:
            yield To("images", facts | {"status": "failed", "reason": error.reason})
            yield Drop(error.reason, error.detail, id=row[UNIT], unit=UNIT)
            continue
        said = dict.fromkeys(CONSENT.names, "")
        said |= source.said(row[UNIT]) if isinstance(source, Links) else {}
        said["licence"] = said["licence"] or (licences or {}).get(host_of(row[UNIT]), "")
        if any(said.values()):
            yield To("consent", said | {UNIT: row[UNIT]})
        image_id = short_hash(data)
        path = f"files/{image_id[:2]}/{image_id}.{ENDINGS[found.format]}"
        # Before its row: a row of the ledger never names a file that is not there.
        store(given, folder / path)
        facts |= {"image_id": image_id, "status": "ok", "reason": "", "path": path}
        yield To("images", facts | vars(found))


def licences_of(run: Run) -> dict[str, str]:
    """Licence and attribution by host, from a CSV with the columns host, licence, attribution.

    Raises InputError where it lacks them.
    """
    if (file := run.input("licences")) is None:
        return {}
    named = str(file).replace("'", "''")
    terms = "trim(host), concat_ws(', ', licence, attribution)"
    query = f"SELECT {terms} FROM read_csv('{named}', all_varchar = true)"
    return dict(sql.select(query, {}, run.scratch))


def check_left(run: Run) -> None:
    """Raise InputError, with what to change, if there is no address or none gave a picture."""
    p, account = run.params, run.counts().get(UNIT)
    if not account:
        raise InputError(
            f"03_images: samples ({p.samples}) holds no row; give 02_filtering more, or a"
            " higher cap"
        )
    if not account["kept"]:
        reasons = account["dropped"]
        commonest = max(reasons, key=lambda reason: reasons[reason])
        dropped = read_rows(run.data / "dropped")
        first = next(row for row in dropped if row["reason"] == commonest)
        raise InputError(
            f"03_images: all {account['taken']} images failed, {reasons[commonest]} as"
            f" {commonest!r} (data/dropped has each), the first {first['id']}: {first['detail']};"
            f" images_root is {p.images_root!r}: {_mend(p.images_root, commonest)}"
        )


def _mend(images_root: str, reason: str) -> str:
    if images_root:
        return (
            "name a folder with host/path or path of each address in it, or nothing to fetch them"
        )
    if reason == "not_public":
        return (
            "addresses inside a network are asked only where allow_hosts names them, as host:port"
        )
    return (
        "the web is asked directly, without a proxy of the environment; try a link from this"
        " machine"
    )


def from_sample(url: str) -> bytes:
    """The embedded picture of that address; ImageError `not_found` where the embedded web has
    none.
    """
    from vislib.sample import image_bytes

    data = image_bytes(url)
    if data is None:
        raise ImageError("not_found", "no embedded picture has this address")
    return data


def from_folder(url: str, *, root: Path, max_bytes: int) -> bytes:
    """The file of an address in a folder that mirrors URL paths; raises ImageError.

    `http://host/a/b.png` is `<root>/host/a/b.png` if that host has a folder (`host:port` too, as
    wget names it), else `<root>/a/b.png`. No address leads out of `root` (absolute) by its path,
    nor to a file above `max_bytes`; links that the folder's owner placed in it are followed,
    wherever they lead.
    """
    paths = _candidates(url, root)
    try:
        for path in paths:
            if not path.is_relative_to(root):
                raise ImageError("outside_root", f"{path.name} lies outside the folder")
            if path.is_file():
                if (size := path.stat().st_size) > max_bytes:
                    raise ImageError("too_many_bytes", f"{size} bytes, at most {max_bytes}")
                return path.read_bytes()
    except OSError as error:
        # An address may be longer than any file's name: then there is no such file.
        if error.errno != errno.ENAMETOOLONG:
            raise ImageError("unreadable", f"{error.strerror}: {error.filename}") from error
    raise ImageError("not_found", f"no file {os.path.relpath(paths[0], root)} below {root.name}/")


def _candidates(url: str, root: Path) -> list[Path]:
    """Where a mirror may have it. A query is part of the name, as wget has it, or idle after a
    picture's ending.
    """
    address = web_address(url)
    raw = (address.pathname + address.search).lstrip("/")
    name = os.fsdecode(unquote_to_bytes(raw)).lstrip("/")
    if not name or "\0" in name:
        raise ImageError("bad_url", "not the http or https address of a file")
    # As the bytes that it means, then as it is written: mirrors keep either.
    names = [name, raw]
    path, _, query = name.partition("?")
    if query and Path(path).suffix.lower() in _PICTURE_ENDINGS:
        names.append(path)
    hosts = address.host, address.hostname
    bases = [root / host for host in hosts if (root / host).is_dir()] or [root]
    return [Path(os.path.normpath(base / name)) for base in bases for name in names]
