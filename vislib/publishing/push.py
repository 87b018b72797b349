"""A release copied to the Hugging Face hub, or to a folder of any store that fsspec knows.

    python -m vislib.publishing.push FOLDER owner/name [--really]
    python -m vislib.publishing.push FOLDER s3://bucket/folder [--really]

Without `--really` it says what it would do, and does nothing. Ended early, it goes on where it was
when it is called again. Secrets come from the environment alone: HF_TOKEN for the hub, and what a
store's own client reads (AWS_ACCESS_KEY_ID and so on). On the hub a new dataset is private: its
owner looks at it there, and lets others see it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vislib.publishing.release import SUMS, sums_of
from vislib.runs import InputError
from vislib.runs.progress import Progress

Sums = dict[str, str]  # SHA-256 of each file, by its path from the release


def checked_sums(release: Path) -> Sums:
    """The sums of a release; InputError if they are not those of its files."""
    if not (release / SUMS).is_file():
        raise InputError(f"{release}: holds no {SUMS}; name a release that 09_publishing made")
    sums = read_sums((release / SUMS).read_text(encoding="utf-8"))
    # of both: one that is gone is a fault as well as one that nobody made
    for name, _ in sorted(sums.items() ^ sums_of(release).items()):
        raise InputError(f"{release}: {name} is not as {SUMS} has it; run 09_publishing again")
    return sums


def read_sums(text: str) -> Sums:
    """The lines of SHA256SUMS."""
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: digest for digest, name in pairs}


def to_store(release: Path, url: str, *, really: bool) -> tuple[list[str], list[str]]:
    """Copy a release to `url`; the files that were to be copied, and those to be deleted there."""
    from fsspec.core import url_to_fs

    sums = checked_sums(release)
    store, root = url_to_fs(url.rstrip("/"))
    store.invalidate_cache()  # of listings: another process may have written
    found = store.find(root, detail=True)
    there = {name.removeprefix(f"{root}/"): facts["size"] for name, facts in found.items()}
    before = read_sums(store.cat_file(f"{root}/{SUMS}").decode()) if SUMS in there else {}
    # Files of others are left alone.
    ours = there.keys() & (sums.keys() | before.keys())
    stale = sorted(name for name in ours if sums.get(name) != before.get(name))
    # a size that differs: its copying was ended
    whole = {name for name in sums if there.get(name) == (release / name).stat().st_size}
    missing = [name for name in sums if name in stale or name not in whole]
    if really:
        # What differs goes first, and the sums come before the files: however early this ends, a
        # file that stands there is of the release whose sums stand there.
        for name in stale:
            store.rm_file(f"{root}/{name}")
        with Progress(len(missing), "file") as progress:
            for name in [SUMS, *missing]:
                store.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                store.put_file(str(release / name), f"{root}/{name}")
                progress.update()
    return missing, stale


def to_hub(release: Path, repo: str) -> str:
    """Copy a release to a dataset of the hub, which is made where it is not there; its address."""
    from huggingface_hub import HfApi

    if not (token := os.environ.get("HF_TOKEN")):
        raise InputError("the hub wants a token: set HF_TOKEN to one that may write")
    hub = HfApi(token=token)
    hub.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
    # Shards of a release before would be read with these.
    done = hub.upload_folder(
        repo_id=repo, folder_path=release, repo_type="dataset", delete_patterns="data/*"
    )
    return str(done.commit_url)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status: 0, or 2 for bad input and what a store refuses."""
    parser = argparse.ArgumentParser(
        prog="python -m vislib.publishing.push",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a release that 09_publishing made")
    parser.add_argument(
        "to", help="owner/name on the hub, or an address such as s3://bucket/folder"
    )
    parser.add_argument("--really", action="store_true", help="copy, and not only say what")
    given = parser.parse_args(arguments)
    try:
        if "://" in given.to:
            missing, stale = to_store(given.folder, given.to, really=given.really)
            print(f"{len(missing)} files to copy, {len(stale)} of another release to delete")
        else:
            print(f"{len(checked_sums(given.folder))} files to copy to a dataset of the hub")
            if given.really:
                print(to_hub(given.folder, given.to))
    except Exception as error:  # clients of stores raise all kinds
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not given.really:
        print("nothing was copied; add --really")
    return 0


if __name__ == "__main__":
    sys.exit(main())
