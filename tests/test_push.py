"""Copying a release: to S3 (moto's server), to a folder, and to what speaks as the hub does."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pandas
import pytest

from tests.hub_server import hub_server
from tests.object_store import bucket
from tests.releases import N, publish
from tests.sets import ROOT
from vislib.publishing import push

__all__ = ["bucket"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("push")).data / "links_only"


def contents(url: str) -> dict[str, bytes]:
    store, root = fsspec.core.url_to_fs(url)
    store.invalidate_cache()
    return {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")} | {
        "SHA256SUMS": (folder / "SHA256SUMS").read_bytes()
    }


def test_to_s3_dry_then_really_and_it_opens_there(
    release: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    n = len(files(release)) - 1
    assert push.main([str(release), bucket]) == 0
    assert f"{n} files to copy, 0 of another release to delete" in capsys.readouterr().out
    assert contents(bucket) == {}
    assert push.main([str(release), bucket, "--really"]) == 0
    assert contents(bucket) == files(release)
    capsys.readouterr()
    assert push.main([str(release), f"{bucket}/"]) == 0
    assert "0 files to copy" in capsys.readouterr().out
    shards = [name for name in contents(bucket) if name.startswith("data/contextual-leaky_mix/t")]
    rows = pandas.concat(pandas.read_parquet(f"{bucket}/{name}") for name in shards)
    assert len(rows) == N


def test_what_was_ended_early_goes_on_and_another_release_leaves_nothing(
    release: Path, bucket: str, tmp_path: Path
) -> None:
    store, root = fsspec.core.url_to_fs(bucket)
    other = publish(tmp_path, limit=4).data / "links_only"
    push.to_store(other, bucket, really=True)
    assert contents(bucket) == files(other)
    missing, stale = push.to_store(release, bucket, really=True)
    assert stale
    assert contents(bucket) == files(release)
    assert sorted(missing) == sorted(name for name in files(release) if name != "SHA256SUMS")
    names = sorted(name for name in files(release) if name != "SHA256SUMS")[:3]
    store.rm([f"{root}/{name}" for name in names])
    assert push.to_store(release, bucket, really=False)[0] == names
    push.to_store(release, bucket, really=True)
    assert contents(bucket) == files(release)


def test_to_a_folder_too(release: Path, tmp_path: Path) -> None:
    push.to_store(release, f"file://{tmp_path}/copy", really=True)
    assert files(tmp_path / "copy") == files(release)


def test_a_release_that_is_not_as_it_was_made_is_not_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = publish(tmp_path).data / "links_only"
    (folder / "README.md").write_text("by another hand")
    assert push.main([str(folder), f"file://{tmp_path}/copy", "--really"]) == 2
    assert "README.md is not as SHA256SUMS has it" in capsys.readouterr().err
    (folder / "README.md").unlink()
    assert push.main([str(folder), "a/b"]) == 2
    assert "README.md is not as" in capsys.readouterr().err
    assert push.main([str(tmp_path), "a/b"]) == 2
    assert "holds no SHA256SUMS" in capsys.readouterr().err


def hub(release: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address and settings when imported."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "vislib.publishing.push", str(release), *options],
        cwd=ROOT, env=known | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_to_what_speaks_as_the_hub_does(release: Path, tmp_path: Path) -> None:
    with hub_server() as server:
        given = {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": "hf_of_the_environment",
            "HF_HOME": str(tmp_path),
        }
        dry = hub(release, "me/pages", **given)
        assert (dry.returncode, server.repos) == (0, {}), dry.stderr
        assert f"{len(files(release)) - 1} files to copy to a dataset" in dry.stdout
        server.repos["me/pages"] = {"data/contextual-old/train-00000-of-00001.parquet": b"stale"}
        server.repos["me/pages"]["notes.txt"] = b"by hand"
        done = hub(release, "me/pages", "--really", **given)
        assert done.returncode == 0, done.stderr
        assert server.repos["me/pages"] == files(release) | {"notes.txt": b"by hand"}
        assert server.private == {"me/pages": True}
        assert server.tokens == {"Bearer hf_of_the_environment"}
        assert "hf_of_the_environment" not in done.stdout + done.stderr
        del given["HF_TOKEN"]
        assert "set HF_TOKEN" in hub(release, "me/pages", "--really", **given).stderr
    assert push.main([str(release), "a/b/c", "--really"]) == 2
