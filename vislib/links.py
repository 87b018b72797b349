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

import pandas as pd
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
    # rows of several configurations show one picture: it is asked for once
    distinct = "SELECT image_url FROM published GROUP BY image_url ORDER BY min(row)"
    table = sql.query(distinct, scratch / "links", {"published": published}, scratch=scratch)
    fetch_all(_Errand(params, scratch), links, table)
    return links


def _parameters(settings: Sequence[str], given: dict[str, Any]) -> SimpleNamespace:
    place = "--set"
    # what the command line says holds over what the set says
    for setting in settings:
        name, _, value = setting.partition("=")
        given[name] = read_value(value, place)
    # of 03 itself, so that every parameter it has holds here too
    schema = read_schema(Stage.notebook_file("03_images"))
    return SimpleNamespace(**resolve(schema, given, place))


def recheck(name: str, into: Path | None, settings: Sequence[str] = ()) -> Counter[str]:
    """Write the removal list `into` (`recheck.jsonl` of the run) of a set's images that are gone,
    changed or opted out since 03; how many links are `ok`, and how many not, by reason.

    A host that does not answer today is counted, and not on the list.
    """
    run = run_folder(f"runs/{name}")
    params = _parameters(settings, read_parameters(run / "03_images/params.yaml"))
    if params.images_root == "sample":
        raise InputError(f"{name}: its pictures are embedded; name a set whose links are the web's")
    params.policy = "respect"  # else nothing would be known of what has opted out
    data = run / "03_images/data"
    scratch = run / ".recheck"
    usable = "SELECT image_url, image_id FROM ledger WHERE status = 'ok' ORDER BY row"
    table = sql.query(usable, scratch / "links", {"ledger": data / "images"}, scratch=scratch)
    # A journal of today's: what was fetched for 03 is no news.
    journal = run.parent / f"journal/recheck-{date.today()}.sqlite"
    links = ask_all(_Errand(params, scratch), Links.of(journal, params), table)
    # who had opted out before 03 is in its table already
    before = {row["image_url"]: consent.refusal(row) for row in read_rows(data / "consent")}
    counts = Counter[str]()
    with (into or run / "recheck.jsonl").open("w", encoding="utf-8") as file:
        for row in read_rows(table):
            url = row["image_url"]
            _, reason, detail = fetched(row, links)
            if reason == "opted_out" and detail == before.get(url):
                reason = "opted_out_before"
            # a host that is down today may answer tomorrow
            elif reason not in ("ok", "host_failed", *TRANSIENT):
                entry = {"unit": "link", "id": url, "reason": reason, "note": detail}
                print(json.dumps(entry, ensure_ascii=False), file=file)
            counts[reason] += 1
    rmtree(scratch)
    return counts


def rehydrate(folder: Path, into: Path, settings: Sequence[str] = ()) -> Counter[str]:
    """Write the release with images `into` of the release of links in `folder`; how many rows are
    `ok`, and how many not, by reason. `into/gone.csv` names the addresses of these.

    Raises InputError for a folder without such rows, and where no host can be reached.
    """
    published = folder / "data/*/*.parquet"
    # without a shard the folder itself is opened, and refused by its name
    for shard in parts(published) or [folder]:
        held = open_part(shard).schema_arrow
        if lacking := set(LINKS_ONLY.names) - set(held.names):
            raise InputError(f"{shard}: lacks {sorted(lacking)}; name a folder of links_only")
    scratch = into / ".making"
    rmtree(scratch, ignore_errors=True)  # the journal has what was fetched
    scratch.mkdir(parents=True)
    links = ask(published, scratch, settings)
    # of the shards' own columns: whether the page's text is among them was 09's to say
    schema = pa.schema([WITH_IMAGES.field("image"), *held], WITH_IMAGES.metadata)
    counts = Counter[str]()
    gone: list[tuple[str, str, str]] = []
    for config, splits in release.configs_of(folder).items():
        for split, glob in splits.items():
            # shards of pictures, as large as 09 makes them
            place = scratch / "made/data" / config
            writer = TableWriter(place, schema, stem=split, rows_per_part=2000)
            for row in read_rows(folder / glob):
                data, reason, detail = fetched(row, links)
                counts[reason] += 1
                if reason != "ok":
                    gone.append((row["image_url"], reason, detail))
                    continue
                name = f"{row['image_id']}.{ENDINGS.get(row['format'], 'img')}"
                writer.write({"image": {"bytes": data, "path": name}} | row)
            writer.close()
    # a table for people: what is gone may be asked of its owner, or of an archive
    told = pd.DataFrame(gone, columns=["image_url", "reason", "detail"])
    told.drop_duplicates("image_url").to_csv(into / "gone.csv", index=False)
    release.number_shards(scratch / "made", into)
    release.write_readme(into)
    rmtree(scratch)
    return counts


def fetched(row: Row, links: Links) -> tuple[bytes, str, str]:
    """The image file of a row and `ok`; or no bytes, the reason and a detail."""
    try:
        data = links(row["image_url"]).read_bytes()
    except ImageError as error:
        return b"", error.reason, error.detail
    digest = sha256(data).hexdigest()
    # An image's id begins its hash.
    if not digest.startswith(row.get("sha256") or row["image_id"]):
        return b"", "changed", f"it is {digest} now"
    return data, "ok", ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0, 1 where links are gone, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m vislib.links",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["rehydrate", "recheck"])
    parser.add_argument("of", help="a folder of a release of links; the name of a set that was run")
    parser.add_argument("--into", type=Path, help="the release, or the removal list, that is made")
    parser.add_argument("--set", action="append", default=[], help="a parameter of 03, name=value")
    options = parser.parse_args(arguments)
    folder = Path(options.of)
    try:
        if options.what == "recheck":
            counts = recheck(folder.name, options.into, options.set)
        else:
            into = options.into or folder.with_name(f"{folder.name}_rehydrated")
            counts = rehydrate(folder, into, options.set)
            print(f"{into}:")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{name} {number:,}" for name, number in counts.most_common()))
    # what had opted out before is no news
    return int(bool(counts.keys() - {"ok", "opted_out_before"}))


if __name__ == "__main__":
    sys.exit(main())
