"""Rows of a release, with images or as links, in the layout of the Hugging Face hub.

Two papers, two releases: conversations beside their pictures, as VisCon-100K's are, and image id,
address and text alone, as DenseFusion-1M's datasheet describes its own. Pictures are their owners',
and links are not; so whoever gets links fetches the pictures (`vislib.links rehydrate`) and tells
by the hash whether they are still those that the text is about.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any

import yaml

from vislib import removals
from vislib.fetching.links import store
from vislib.runs import Drop, InputError, To, sql, tables
from vislib.runs.contract import SCHEMAS
from vislib.runs.digests import file_hashes
from vislib.runs.keys import expand
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

WITH_IMAGES, LINKS_ONLY = "with_images", "links_only"
ID = ("kind", "configuration", "conversation.id")
SUMS = "SHA256SUMS"
_MAKERS = ("model", "prompt_sha", "request_sha")  # of a caption or a question


def join(*, asked: bool, limit: int, seed: int) -> str:
    """SQL: a row per conversation of every configuration, in order of files, with its sample, image
    and caption, and who made its questions. With a `limit`, of so many samples, by hash; `asked`:
    whether there are questions. `gone` are questions that removal lists name, `removed` says why a
    whole sample is.
    """
    drawn = f"ORDER BY {sql.drawn('sample_id', seed)} LIMIT {limit}" if limit else ""
    chosen = f"SELECT sample_id FROM conversations GROUP BY sample_id {drawn}"
    makers = ", ".join(f"list_sort(list(DISTINCT {name})) AS {name}s" for name in _MAKERS)
    asking = "questions WHERE status = 'ok'"
    gone = f"questions JOIN ({removals.OF_QUESTIONS}) USING (question_id)"
    if not asked:  # as if there were none: captions have the same makers
        asking = "captions WHERE false"
        gone = "(SELECT *, '' AS question FROM captions WHERE false)"
    return f"""
    -- kind, configuration and split are told by a row's place alone
    WITH placed AS (
        SELECT row AS said, sample_id, string_split(file, '/')[-3:] AS place
        FROM conversations_with_file WHERE sample_id IN ({chosen})
    ), named AS (
        SELECT *, place[1] AS kind, place[2] AS configuration,
            split_part(place[3], '-', 1) AS split FROM placed
    ), asked AS (SELECT sample_id, kind, {makers} FROM {asking} GROUP BY sample_id, kind),
    gone AS (SELECT sample_id, kind, list(question) AS gone FROM {gone} GROUP BY ALL),
    removed AS ({removals.OF_SAMPLES})
    SELECT kind, configuration, split, said AS conversation, samples.row AS sample,
        images.row AS image, captions.row AS caption, {", ".join(f"{name}s" for name in _MAKERS)},
        gone, detail AS removed
    FROM named LEFT JOIN samples USING (sample_id) LEFT JOIN images USING (image_url)
        LEFT JOIN captions USING (sample_id, kind) LEFT JOIN asked USING (sample_id, kind)
        LEFT JOIN gone USING (sample_id, kind) LEFT JOIN removed USING (sample_id)
    ORDER BY said
    """


def row_of(joined: Row, data: bytes) -> Row:
    """A published row of links, from a joined row and the bytes of its image."""
    said = joined["conversation"]
    caption = joined["caption"] or {}
    # a conversation of a caption alone has no questions, though its sample may
    asks = set(said["sources"]) != {"caption"}
    copied: Row = {"sha256": sha256(data).hexdigest()}
    for name in _MAKERS:
        copied[f"caption_{name}"] = caption.get(name)
        copied[f"question_{name}s"] = (joined[f"{name}s"] or []) if asks else []
    # where two have a name, the later one's holds; what no release names falls away
    known = joined["sample"] | joined["image"] | joined | said | copied
    return {name: known[name] for name in SCHEMAS["09_publishing"][LINKS_ONLY].names}


def rows(
    joined: Iterable[Row], *, releases: Collection[str], files: Path, with_context: bool, into: Path
) -> Iterator[Said]:
    """Rows of the `releases`, below `into`; a row without its picture is dropped.

    `files`: the data folder of 03. `with_context` adds the text of the page, which has an owner.
    """
    for row in joined:
        said = removals.without(row["conversation"], row["gone"] or [])
        if row["removed"] or not said["sources"]:
            yield Drop(removals.REASON, row["removed"] or "all its questions")
            continue
        # joins from the left: what a table lacks is None
        sample, ledger = row["sample"] or {}, row["image"] or {}
        if ledger.get("status") != "ok":
            yield Drop("image_missing", sample.get("image_url", "no such sample"))
            continue
        # the file may have changed since 03: then the texts are about another picture
        image = files / ledger["path"]
        data = b""
        if image.is_file():
            data = image.read_bytes()
        published = row_of(row | {"conversation": said}, data)
        if not published["sha256"].startswith(published["image_id"]):
            yield Drop("image_changed", f"{image.name} is not the file that the ledger names")
            continue
        if with_context:
            published["context"] = sample["context"]
        picture = {"image": {"bytes": data, "path": image.name}}
        for name in releases:
            whole = picture | published if name == WITH_IMAGES else published
            # kind and configuration become the hub's configuration, a folder
            place = into / name / "data" / config_name(row)
            yield To(name, whole, path=str(place), stem=row["split"])


def config_name(row: Mapping[str, Any]) -> str:
    """The name of a configuration on the hub: words and a hyphen are legal there and in paths."""
    return f"{row['kind']}-{row['configuration']}"


def schemas(*, with_context: bool) -> dict[str, Any]:
    """The schemas of both releases."""
    found = {name: SCHEMAS["09_publishing"][name] for name in (WITH_IMAGES, LINKS_ONLY)}
    if with_context:
        context = SCHEMAS["02_filtering"]["samples"].field("context")
        return {name: schema.append(context) for name, schema in found.items()}
    return found


def number_shards(made: Path, into: Path) -> None:
    """Place the parts `made` as shards of a release, whose names tell how many there are.

    A split without a row has no shard: `datasets` refuses an empty one. Raises InputError if there
    is no row at all.
    """
    # anew, from parts that stay: however often it is called, and wherever it was ended
    rmtree(into / "data", ignore_errors=True)
    for config in sorted((made / "data").glob("*")):
        splits = defaultdict[str, list[Path]](list)
        for part in tables.parts(config):
            if tables.count_rows(part):
                splits[part.name.split("-")[0]].append(part)
        # how many there are is known only now
        for split, found in splits.items():
            for number, part in enumerate(found):
                shard = f"{split}-{number:05d}-of-{len(found):05d}.parquet"
                store(part, into / "data" / config.name / shard)
    if not (into / "data").exists():
        raise InputError(f"{into}: no row has its picture; mend what the reasons say and run again")


def configs_of(release: Path) -> dict[str, dict[str, str]]:
    """The configurations of a release in order, the default one first: for each split its files,
    as a glob from the release.
    """
    found = defaultdict[str, dict[str, str]](dict)
    for shard in expand(release / "data"):
        config = shard.parent.name
        split = shard.name.split("-")[0]
        found[config][split] = f"data/{config}/{split}-*.parquet"
    # the papers' best mix, which holds the rounds of all others
    best = sorted(found, key=lambda name: (not name.endswith("-leaky_mix"), name))[:1]
    # and `train` before `test`
    return {name: dict(sorted(found[name].items(), reverse=True)) for name in [*best, *found]}


def hub_configs(release: Path) -> list[dict[str, Any]]:
    """What the header of README.md says of them: by it `datasets` finds the rows."""
    configs: list[dict[str, Any]] = []
    for name, splits in configs_of(release).items():
        files = [{"split": split, "path": path} for split, path in splits.items()]
        configs.append({"config_name": name, "data_files": files})
    configs[0]["default"] = True  # opens where none is named
    return configs


def write_readme(release: Path) -> None:
    """A README.md of its header alone, where no record tells more."""
    header = yaml.safe_dump({"configs": hub_configs(release)}, sort_keys=False)
    (release / "README.md").write_text(f"---\n{header}---\n", encoding="utf-8")


def sums_of(release: Path) -> dict[str, str]:
    """SHA-256 of every file of a release but SHA256SUMS, by its path from there."""
    files = [file for file in expand(release) if file.name != SUMS]
    names = (file.relative_to(release).as_posix() for file in files)
    return dict(zip(names, file_hashes(files), strict=True))


def write_sums(release: Path) -> None:
    """SHA256SUMS of every other file, as `sha256sum --check` reads it; last of all."""
    # a reader of the hub gets files one by one, and may want to know that he has them all
    lines = [f"{digest}  {name}\n" for name, digest in sums_of(release).items()]
    (release / SUMS).write_text("".join(lines), encoding="utf-8")
