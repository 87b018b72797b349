"""A release copied to the Hugging Face hub, or to a folder of any store that fsspec knows.

    python -m vislib.publishing.push FOLDER owner/name [--really] [--public]
    python -m vislib.publishing.push FOLDER s3://bucket/folder [--really]

Without `--really` it says what it would do, and does nothing. Ended early, it goes on where it was
when it is called again. Secrets come from the environment alone: HF_TOKEN for the hub, and what a
store's own client reads (AWS_ACCESS_KEY_ID and so on).
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vislib.publishing.release import SUMS
from vislib.runs import InputError
from vislib.runs.digests import file_hashes
from vislib.runs.keys import expand
from vislib.runs.progress import Progress

Sums = dict[str, str]  # SHA-256 of each file, by its path from the release


def checked_sums(release: Path) -> Sums:
    """The sums of a release; InputError if a file is not as they have it, or not among them."""
    if not (release / SUMS).is_file():
        raise InputError(f"{release}: holds no {SUMS}; name a release that 09_publishing made")
    sums = read_sums((release / SUMS).read_text(encoding="utf-8"))
    files = [file for file in expand(release) if file.name != SUMS]
    names = [file.relative_to(release).as_posix() for file in files]
    for name, found in zip(names, file_hashes(files), strict=True):
        if sums.get(name) != found:
            raise InputError(f"{release}: {name} is not as {SUMS} has it; run 09_publishing again")
    if lost := sums.keys() - set(names):
        raise InputError(f"{release}: {min(lost)} is gone; run 09_publishing again")
    return sums


def read_sums(text: str) -> Sums:
    """The lines of SHA256SUMS."""
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: digest for digest, name in pairs}


def to_store(release: Path, url: str, *, really: bool) -> tuple[list[str], list[str]]:
    """Copy a release to `url`; the files that were to be copied, and those to be deleted there.

    What is there and differs goes first, then the sums are written, then what is missing: however
    early it ends, a file that stands there is of the release whose sums stand there.
    """
    from fsspec.core import url_to_fs

    sums, (store, root) = checked_sums(release), url_to_fs(url.rstrip("/"))
    store.invalidate_cache()
    found = store.find(root, detail=True)
    there = {name.removeprefix(f"{root}/"): facts["size"] for name, facts in found.items()}
    before = read_sums(store.cat_file(f"{root}/{SUMS}").decode()) if SUMS in there else {}
    known = sums.keys() | before.keys()
    stale = [name for name in there if name in known and sums.get(name) != before.get(name)]
    sizes = {name: (release / name).stat().st_size for name in sums}
    missing = [name for name in sums if name in stale or there.get(name) != sizes[name]]
    if really:
        for name in stale:
            store.rm_file(f"{root}/{name}")
        with Progress(len(missing), "file") as progress:
            for name in [SUMS, *missing]:
                store.makedirs(store._parent(f"{root}/{name}"), exist_ok=True)
                store.put_file(str(release / name), f"{root}/{name}")
                progress.update()
    return missing, stale


def to_hub(release: Path, repo: str, *, public: bool) -> str:
    """Copy a release to a dataset of the hub, which is made where it is not there; its address."""
    from huggingface_hub import HfApi

    checked_sums(release)
    if not (token := os.environ.get("HF_TOKEN")):
        raise InputError("the hub wants a token: set HF_TOKEN to one that may write")
    hub = HfApi(token=token)
    hub.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
    # shards of a release before would be read with these
    done = hub.upload_folder(
        repo_id=repo, folder_path=release, repo_type="dataset", delete_patterns="data/*"
    )
    return str(done.commit_url)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0, or 2 for bad input and what a store refuses."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m vislib.publishing.push", description=__doc__, formatter_class=layout
    )
    parser.add_argument("folder", type=Path, help="a release that 09_publishing made")
    parser.add_argument(
        "to", help="owner/name on the hub, or an address such as s3://bucket/folder"
    )
    parser.add_argument("--really", action="store_true", help="copy, and not only say what")
    parser.add_argument("--public", action="store_true", help="a new dataset is seen by all")
    options = parser.parse_args(arguments)
    try:
        _push(options.folder, options.to.removeprefix("hf://datasets/"), options)
    except Exception as error:  # clients of stores raise all kinds
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.really:
        print("nothing was copied; add --really")
    return 0


def _push(release: Path, to: str, options: argparse.Namespace) -> None:
    if "://" in to:
        missing, stale = to_store(release, to, really=options.really)
        print(f"{to}: {len(missing)} files to copy, {len(stale)} of another release to delete")
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", to):
        raise InputError(f"{to!r} is no owner/name of the hub, and no address of a store")
    names = checked_sums(release)
    size = sum((release / name).stat().st_size for name in names) / 1e6
    seen = "public" if options.public else "private"
    print(f"datasets/{to} ({seen} if it is new): {len(names)} files, {size:.1f} MB")
    if options.really:
        print(to_hub(release, to, public=options.public))


if __name__ == "__main__":
    sys.exit(main())
