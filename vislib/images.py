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
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from vislib.fetching.links import Links
from vislib.fetching.urls import tidied, web_address
from vislib.media.pixels import ENDINGS, ImageError, verify
from vislib.runs import InputError, Run, short_hash
from vislib.runs.tables import Output, TableWriter, parts, read_rows

EMBEDDED = "sample"
UNIT = "image_url"
URLS_PER_SHARD = 500
_URLS = pa.schema([(UNIT, pa.string())])
_PICTURE_ENDINGS = {f".{ending}" for ending in (*ENDINGS.values(), "jpeg", "tiff", "svg")}
_PARTS = re.compile(r"https?:/*(?P<host>[^/?#]*)(?P<path>[^?#]*)\??(?P<query>[^#]*)", re.IGNORECASE)

# Bytes behind an address, or the file that keeps them, or ImageError. Workers are processes:
# importable.
Source = Callable[[str], bytes | Path]


def collect_images(run: Run) -> None:
    """Fill the ledger `images` and the folder `files` from the addresses in the input `samples`.

    Parameters: samples, images_root, limit, seed, max_bytes, max_pixels, min_side, workers, and
    those of `vislib.fetching`. Raises InputError when there is no address, no such folder, or no
    picture at all comes of it.
    """
    p = run.params
    shards = distinct_urls(run.table("samples"), run.scratch, limit=p.limit, seed=run.seed)
    source, asked = open_source(run), 0
    if isinstance(source, Links):
        from vislib.fetching.fetcher import fetch_all

        asked = fetch_all(run, source, shards)
    limits = {"max_bytes": p.max_bytes, "max_pixels": p.max_pixels, "min_side": p.min_side}
    work = partial(collect_part, source=source, **limits)
    run.map_shards(
        work, shards, workers=p.workers, resume=not asked
    )  # what is known now may differ
    account = run.counts().get(UNIT)
    if account is None:
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


def open_source(run: Run) -> Source:
    """The source that the parameter `images_root` names."""
    root, folder = run.params.images_root, run.input("images_root")
    if root == EMBEDDED:
        return from_sample
    if folder is None:
        return Links.of(run.journal_path("images"), run.params)
    if not folder.is_dir():
        raise InputError(
            f"03_images: images_root is {root!r}, but {folder} is no folder; name a folder that"
            f" mirrors URL paths, {EMBEDDED!r} for the embedded pictures, or nothing for the web"
        )
    return partial(from_folder, root=Path(os.path.abspath(folder)), max_bytes=run.params.max_bytes)


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
    tried: list[str] = []
    try:
        for path in _candidates(url, root):
            tried.append(os.path.relpath(path, root))
            if not path.is_relative_to(root):
                raise ImageError("outside_root", f"{path.name} lies outside the folder")
            if path.is_file():
                if path.stat().st_size > max_bytes:
                    raise ImageError(
                        "too_many_bytes", f"{path.stat().st_size} bytes, at most {max_bytes}"
                    )
                return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ImageError("unreadable", f"{error.strerror}: {error.filename}") from error
    raise ImageError("not_found", f"no file {tried[0]} below {root.name}/")


def _candidates(url: str, root: Path) -> Iterator[Path]:
    """Where a mirror may have it. A query is part of the name, as wget has it, or idle after a
    picture's ending.
    """
    try:
        address = web_address(url)
    except ValueError as error:
        raise ImageError("bad_url", str(error)) from error
    written = _PARTS.match(
        tidied(url).replace("\\", "/")
    )  # `address` has its `..` resolved already
    assert written
    host, raw, query = written["host"].lower(), written["path"].lstrip("/"), written["query"]
    name = os.fsdecode(unquote_to_bytes(raw)).lstrip("/")
    if not name or "\0" in name:
        raise ImageError("bad_url", "not the http or https address of a file")
    names = [f"{name}?{query}", f"{raw}?{query}"] if query else [name, raw]
    if query and Path(name).suffix.lower() in _PICTURE_ENDINGS:
        names.append(name)
    hosts = dict.fromkeys([host, address.host, address.hostname])
    bases = [root / host for host in hosts if (root / host).is_dir()] or [root]
    yield from (Path(os.path.normpath(base / name)) for base in bases for name in names)


def distinct_urls(samples: Path, scratch: Path, *, limit: int = 0, seed: int = 0) -> list[Path]:
    """Each distinct `image_url` once, in order of first appearance, as scratch parts; memory is
    constant.

    With `limit` (0: all) so many of them, chosen by the hash of seed and address.
    """
    folder, building, seen = (scratch / name for name in ("urls", "urls.building", "urls.sqlite"))
    if not folder.exists():
        seen.unlink(missing_ok=True)  # of a run that was ended here
        with closing(sqlite3.connect(seen)) as database:
            database.execute("CREATE TABLE urls (place INTEGER PRIMARY KEY, url TEXT UNIQUE)")
            urls = ((row[UNIT],) for row in read_rows(samples, [UNIT]))
            database.executemany("INSERT OR IGNORE INTO urls (url) VALUES (?)", urls)
            database.create_function(
                "chance", 1, partial(short_hash, str(seed)), deterministic=True
            )
            chosen = (
                f"SELECT * FROM urls ORDER BY chance(url) LIMIT {limit}"
                if limit
                else "SELECT * FROM urls"
            )
            writer = TableWriter(building, _URLS, rows_per_part=URLS_PER_SHARD)
            for (url,) in database.execute(f"SELECT url FROM ({chosen}) ORDER BY place"):
                writer.write({UNIT: url})
            writer.close()
        os.replace(building, folder)
    return parts(folder)


def collect_part(
    part: Path, output: Output, *, source: Source, max_bytes: int, max_pixels: int, min_side: int
) -> None:
    """Fetch, verify, store (below the output's folder) and describe the addresses of one scratch
    part.
    """
    for row in read_rows(part):
        facts = dict.fromkeys(output.schemas["images"].names) | row
        output.take(UNIT)
        try:
            given = source(row[UNIT])
            data = given if isinstance(given, bytes) else given.read_bytes()
            found = verify(data, max_bytes=max_bytes, max_pixels=max_pixels)
            if min(found.width, found.height) < min_side:
                raise ImageError(
                    "too_small", f"{found.width} x {found.height}, at least {min_side} a side"
                )
        except ImageError as error:
            if isinstance(source, Links):
                source.refuse(row[UNIT], error)
            output.write("images", facts | {"status": "failed", "reason": error.reason})
            output.drop(UNIT, row[UNIT], error.reason, error.detail)
            continue
        image_id = short_hash(data)
        path = store(
            given, output.folder, f"files/{image_id[:2]}/{image_id}.{ENDINGS[found.format]}"
        )
        facts |= {"image_id": image_id, "status": "ok", "reason": "", "path": path}
        output.write("images", facts | vars(found))
        output.keep(UNIT)


def store(given: bytes | Path, folder: Path, path: str) -> str:
    """Write bytes once and whole, or link the file that keeps them; workers that meet the same
    picture agree.

    Returns `path`, where it now is below `folder`.
    """
    file = folder / path
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        if isinstance(given, bytes):
            temporary.write_bytes(given)
        else:
            try:
                os.link(given, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(given, temporary)
        os.replace(temporary, file)
    return path
