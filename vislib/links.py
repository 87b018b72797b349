"""Links of a release made pictures again, and what has become of them since (OBELICS, section 3;
DenseFusion-1M's datasheet, which releases image ids, addresses and captions).

    python -m vislib.links rehydrate FOLDER [--into FOLDER] [--set user_agent='me/1.0 (my@mail)']
    python -m vislib.links recheck SET [--into FILE] [--set …]

Links rot, and what answers at an address may be another picture than the one that a text is about:
each file is held against the hash in its row. Fetching is that of 03, with its parameters, pace and
journal: what was fetched once is not asked for again, so that a second call goes on or tries again.
`recheck` asks anew, once a day, for the images of a set: what is dead, changed or has opted out
since 03 goes on a removal list, which 08 and 09 apply.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from vislib.fetching import consent
from vislib.fetching.fetcher import ask_all, fetch_all
from vislib.fetching.links import TRANSIENT, Links
from vislib.media.pixels import ENDINGS, ImageError
from vislib.publishing import release
from vislib.runs import InputError, sql
from vislib.runs.contract import LINKS_ONLY, WITH_IMAGES
from vislib.runs.params import read_schema, resolve
from vislib.runs.progress import Progress
from vislib.runs.stage import Stage, run_folder
from vislib.runs.tables import Row, TableWriter, open_part, parts, read_rows
from vislib.runs.yaml_files import read_parameters, read_value


@dataclass
class _Errand:
    """What fetching takes of a run, where there is none."""

    params: Any
    scratch: Path
    metrics: dict[str, Any] = field(default_factory=dict)

    def progress(self, total: int, unit: str) -> Progress:
        """A bar, or a line per 30 s."""
        return Progress(total, unit)


def ask(published: Path, scratch: Path, settings: Sequence[str]) -> Links:
    """Fetch each address of a table's column `image_url` that the journal does not know; the links.

    `settings` are parameters of 03, as `timeout_s=10`.
    """
    params = _parameters(settings, {})
    links = Links.of(run_folder("runs/any").parent / "journal/images.sqlite", params)
    distinct = "SELECT image_url FROM published GROUP BY image_url ORDER BY min(row)"
    table = sql.query(distinct, scratch / "links", {"published": published}, scratch=scratch)
    fetch_all(_Errand(params, scratch), links, table)
    return links


def _parameters(settings: Sequence[str], given: dict[str, Any]) -> SimpleNamespace:
    place = "--set"
    pairs = (setting.partition("=") for setting in settings)
    given |= {name: read_value(value, place) for name, _, value in pairs}
    return SimpleNamespace(**resolve(read_schema(Stage.notebook_file("03_images")), given, place))


def recheck(name: str, into: Path | None, settings: Sequence[str] = ()) -> Counter[str]:
    """Write the removal list `into` (`recheck.jsonl` of the run) of a set's images that are gone,
    changed or opted out since 03; how many links are `ok`, and how many not, by reason.

    A host that does not answer today is counted, and not on the list.
    """
    run = run_folder(f"runs/{name}")
    params = _parameters(settings, read_parameters(run / "03_images/params.yaml"))
    if params.images_root == "sample":
        raise InputError(f"{name}: its pictures are embedded; name a set whose links are the web's")
    data, scratch, params.policy = run / "03_images/data", run / ".recheck", "respect"
    usable = "SELECT image_url, image_id FROM ledger WHERE status = 'ok' ORDER BY row"
    table = sql.query(usable, scratch / "links", {"ledger": data / "images"}, scratch=scratch)
    # A journal of today's: what was fetched for 03 is no news.
    journal = run.parent / f"journal/recheck-{date.today()}.sqlite"
    links = ask_all(_Errand(params, scratch), Links.of(journal, params), table)
    before = {row["image_url"]: consent.refusal(row) for row in read_rows(data / "consent")}
    counts = Counter[str]()
    with (into or run / "recheck.jsonl").open("w", encoding="utf-8") as file:
        for row in read_rows(table):
            _, reason, detail = fetched(row, links)
            if reason == "opted_out" and detail == before.get(row["image_url"]):
                reason = "opted_out_before"
            elif reason not in ("", "host_failed", *TRANSIENT):
                entry = {"unit": "link", "id": row["image_url"], "reason": reason, "note": detail}
                print(json.dumps(entry, ensure_ascii=False), file=file)
            counts[reason or "ok"] += 1
    rmtree(scratch)
    return counts


def rehydrate(folder: Path, into: Path, settings: Sequence[str] = ()) -> Counter[str]:
    """Write the release with images `into` of the release of links in `folder`; how many rows are
    `ok`, and how many not, by reason. `into/gone.csv` names the addresses of these.

    Raises InputError for a folder without such rows, and where no host can be reached.
    """
    published = folder / "data/*/*.parquet"
    for shard in parts(published) or [folder]:
        held = open_part(shard).schema_arrow
        if lacking := set(LINKS_ONLY.names) - set(held.names):
            raise InputError(f"{shard}: lacks {sorted(lacking)}; name a folder of links_only")
    rmtree(scratch := into / ".making", ignore_errors=True)  # the journal has what was fetched
    scratch.mkdir(parents=True)
    links = ask(published, scratch, settings)
    schema = pa.schema([WITH_IMAGES.field("image"), *held], WITH_IMAGES.metadata)
    counts, gone = Counter[str](), dict[str, tuple[str, str]]()
    for config, splits in release.configs_of(folder).items():
        for split, glob in splits.items():
            place = scratch / release.WITH_IMAGES / "data" / config
            # shards of pictures, as large as 09 makes them
            writer = TableWriter(place, schema, stem=split, rows_per_part=2000)
            for row in read_rows(folder / glob):
                data, reason, detail = fetched(row, links)
                counts[reason or "ok"] += 1
                if reason:
                    gone[row["image_url"]] = reason, detail
                else:
                    name = f"{row['image_id']}.{ENDINGS.get(row['format'], 'img')}"
                    writer.write({"image": {"bytes": data, "path": name}} | row)
            writer.close()
    # a table for people: what is gone may be asked of its owner, or of an archive
    with (into / "gone.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image_url", "reason", "detail")])
        csv.writer(file).writerows((url, *why) for url, why in gone.items())
    release.number_shards(scratch / release.WITH_IMAGES, into)
    release.write_readme(into)
    rmtree(scratch)
    return counts


def fetched(row: Row, links: Links) -> tuple[bytes, str, str]:
    """The image file of a row, or no bytes, the reason and a detail."""
    try:
        data = links(row["image_url"]).read_bytes()
    except ImageError as error:
        return b"", error.reason, error.detail
    # An image's id begins its hash.
    if not (digest := sha256(data).hexdigest()).startswith(row.get("sha256") or row["image_id"]):
        return b"", "changed", f"it is {digest} now"
    return data, "", ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0, 1 where links are gone, 2 for bad input."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m vislib.links", description=__doc__, formatter_class=layout
    )
    what = parser.add_subparsers(required=True)
    command = what.add_parser("rehydrate", help="fetch the pictures of a release of links")
    command.add_argument("folder", type=Path, help="a release of links")
    command.add_argument("--into", type=Path, help="where the release with images is written")
    command.add_argument("--set", action="append", default=[], help="a parameter of 03, name=value")
    command.set_defaults(work=_rehydrate)
    command = what.add_parser("recheck", help="what has become of the links of a set")
    command.add_argument("folder", metavar="SET", help="the name of a set that was run")
    command.add_argument("--into", type=Path, help="the removal list that is written")
    command.add_argument("--set", action="append", default=[], help="a parameter of 03, name=value")
    command.set_defaults(work=_recheck)
    options = parser.parse_args(arguments)
    try:
        return int(options.work(options))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _rehydrate(options: argparse.Namespace) -> int:
    into = options.into or options.folder.with_name(f"{options.folder.name}_rehydrated")
    counts = rehydrate(options.folder, into, options.set)
    print(f"{into}: rows {', '.join(f'{name} {n:,}' for name, n in counts.most_common())}")
    return int(counts.keys() != {"ok"})


def _recheck(options: argparse.Namespace) -> int:
    counts = recheck(Path(options.folder).name, options.into, options.set)
    print(f"links {', '.join(f'{name} {n:,}' for name, n in counts.most_common())}")
    return int(bool(counts.keys() - {"ok", "opted_out_before"}))


if __name__ == "__main__":
    sys.exit(main())
