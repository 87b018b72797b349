"""A file is hashed once while it stays the same, and again whenever it may have changed."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from vislib.runs import digests
from vislib.runs.digests import content_hash, file_hashes, folder_facts
from vislib.runs.keys import expand


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files count as settled at once, and a cache of its own."""
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**18))
    (tmp_path / "runs").mkdir()
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were opened, in order."""
    opened, plain = [], Path.open

    def note(path, *arguments, **options):
        opened.append(path.name)
        return plain(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", note)
    return opened


def test_a_file_is_read_once_by_all_processes(ground, reads):
    (ground / "weights").write_bytes(b"one")
    reads.clear()
    for _ in range(2):
        assert file_hashes([ground / "weights"]) == [sha256(b"one")]
    digests._cache.cache_clear()  # another process
    assert file_hashes([ground / "weights"]) == [sha256(b"one")]
    os.rename(ground, ground.with_name("promoted"))
    assert file_hashes([ground.with_name("promoted") / "weights"]) == [sha256(b"one")]
    assert reads.count("weights") == 1


def test_a_change_that_hides_its_time_and_size_is_seen(ground):
    file = ground / "weights"
    file.write_bytes(b"one")
    before = file.stat()
    assert file_hashes([file]) == [sha256(b"one")]
    while time.time_ns() < before.st_ctime_ns + 20_000_000:
        time.sleep(0.005)  # beyond a tick of the file system's clock
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_hashes([file]) == [sha256(b"two")]


def test_a_file_written_just_now_is_read_again(ground, reads, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED_NS", 2**62)
    file = ground / "weights"
    file.write_bytes(b"one")
    identity = digests._identity(file)
    # a clock that does not tick between
    monkeypatch.setattr(digests, "_identity", lambda path: identity)
    assert file_hashes([file]) == [sha256(b"one")]
    file.write_bytes(b"two")
    assert file_hashes([file]) == [sha256(b"two")]


@pytest.mark.parametrize("spoil", ["no folder", "no database", "a folder"])
def test_a_cache_that_is_of_no_use_is_no_error(ground, spoil, monkeypatch):
    cache = ground.parent / "runs/.digests.sqlite"
    if spoil == "no folder":
        cache.parent.rmdir()
    elif spoil == "a folder":
        cache.mkdir()
    else:
        cache.write_bytes(b"not a database" * 100)
    (ground / "a.txt").write_text("one")
    for _ in range(2):
        assert file_hashes([ground / "a.txt"]) == [sha256(b"one")]


def test_folders_globs_and_names_that_are_no_text(ground):
    (ground / "a.txt").write_text("one")
    facts = folder_facts(ground, expand(ground))
    assert facts == {"a.txt": {"size": 3, "sha256": sha256(b"one")}}
    shutil.copy(ground / "a.txt", ground / "b.txt")
    (ground / os.fsdecode(b"na\xefve")).touch()
    assert content_hash(folder_facts(ground, expand(ground))) != content_hash(facts)
    assert list(folder_facts(ground / "*.txt", expand(ground / "*.txt"))) == ["a.txt", "b.txt"]


def test_links_that_the_owner_placed_in_a_folder_are_part_of_it(tmp_path):
    folder, other = tmp_path / "input", tmp_path / "other"
    folder.mkdir()
    (other / "deep").mkdir(parents=True)
    (other / "deep/a.txt").write_text("one")
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(folder)  # round and round
    (other / "gone").symlink_to("nowhere")
    assert expand(folder) == [folder / "linked/deep/a.txt"]
    before = content_hash(folder_facts(folder, expand(folder)))
    (other / "deep/a.txt").write_text("another")
    assert content_hash(folder_facts(folder, expand(folder))) != before
