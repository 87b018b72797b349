"""`vislib.images.from_folder`: a folder that mirrors the web answers for addresses, and nothing
outside it is read.
"""

from functools import partial

import pytest

from tests.test_images import HOST, begin, collect_images, png, put
from vislib import images
from vislib.media.pixels import ImageError
from vislib.runs import tables


def test_a_mirror_is_read_by_path_host_and_query(tmp_path):
    read = partial(images.from_folder, root=tmp_path, max_bytes=1000)
    put(tmp_path, "a/plain.png", b"by path")
    put(tmp_path, "wget.example/a/plain.png", b"by host")
    put(tmp_path, "127.0.0.1:8765/a/plain.png", b"by host and port")
    put(tmp_path, "a/b c é.png", b"decoded")
    put(tmp_path, "a/kept%20raw.png", b"raw")
    put(tmp_path, "a/view.php?id=7", b"seven")
    put(tmp_path, "a/view.php", b"no picture of anyone")
    assert read("http://other.example/a/plain.png") == b"by path"
    assert read("https://wget.example/a/plain.png") == b"by host"
    assert read("http://127.0.0.1:8765/a/plain.png") == b"by host and port"
    assert read("http://x.example//a/b%20c%20%C3%A9.png#top") == b"decoded"
    assert read("http://x.example/a/kept%20raw.png") == b"raw"
    assert read("http://x.example/a/view.php?id=7") == b"seven"
    assert read("http://x.example/a/plain.png?v=3") == b"by path"
    for url in (
        "http://x.example/a/view.php?id=8",
        "https://wget.example/a/b%20c.png",
        "http://x.example/a",
    ):
        with pytest.raises(ImageError, match="not_found"):
            read(url)


def test_nothing_outside_the_mirror_is_read(tmp_path):
    put(tmp_path, "secret.png", png(9))
    mirror = tmp_path / "mirror"
    put(mirror, "a.png", png(1))
    read = partial(images.from_folder, root=mirror, max_bytes=1000)
    for path in (
        "/../secret.png",
        "/%2e%2e/secret.png",
        "/a\\..\\..\\secret.png",
        "/.\t./secret.png",
        "/a/%2E%2e/.%2e/secret.png",
    ):
        with pytest.raises(ImageError, match="not_found"):  # as a browser asks: `/secret.png`
            read(HOST + path)
    with pytest.raises(ImageError, match="outside_root"):
        read(f"{HOST}/a/..%2f..%2fsecret.png")
    (mirror / "deep").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/in").mkdir(parents=True)
    with pytest.raises(
        ImageError, match="not_found"
    ):  # `..` is the URL's, not that of where a link leads
        read(f"{HOST}/deep/in/../../secret.png")
    with pytest.raises(ImageError, match="not_found"):  # an absolute path is one below the root
        read(f"{HOST}/{tmp_path}/secret.png")


def test_links_that_the_owner_placed_in_the_mirror_are_followed(tmp_path, monkeypatch):
    store, mirror = tmp_path / "store", tmp_path / "links/mirror"
    put(store, "ab/one.png", png(1))
    put(store, "host/two.png", png(2))
    mirror.mkdir(parents=True)
    (mirror / "a").symlink_to(store / "ab")
    (mirror / "pictures.example").symlink_to(store / "host")
    (store / "host/three.png").symlink_to("../ab/one.png")
    (store / "host/gone.png").symlink_to("nothing.png")
    (store / "host/round.png").symlink_to("round.png")
    (tmp_path / "root").symlink_to(mirror)
    names = [
        "http://other.example/a/one.png",
        *(f"{HOST}/{n}.png" for n in ("two", "three", "gone", "round")),
    ]
    run = begin(tmp_path, names, monkeypatch, images_root=str(tmp_path / "root"))
    collect_images(run)
    found = [row["reason"] for row in tables.read_rows(run.data / "images")]
    assert found == ["", "", "", "not_found", "not_found"]
    run.finish()


ADDRESSES = [
    " {}",
    "{}\n",
    "\ufeff{}",
    "\r\n\t{}\t",
    "{}#top",
    "{}#a b|c",
    "\x00{}\x1f",
]


@pytest.mark.parametrize("around", ADDRESSES)
def test_white_space_around_an_address_is_none_of_it(tmp_path, around):
    put(tmp_path, "a/größe 1|2.png", b"found")
    read = partial(images.from_folder, root=tmp_path, max_bytes=10)
    for url in (
        "http://x.example/a/größe 1|2.png",
        "HTTP:\\\\x.example\\a\\größe\n 1|2.png",
        "http://x.example/a/gr%C3%B6%C3%9Fe%201%7c2.png",
        "//x.example/a/größe 1|2.p\n\tng",
    ):
        assert read(around.format(url)) == b"found"


def test_addresses_that_name_no_file_are_refused(tmp_path):
    read = partial(images.from_folder, root=tmp_path, max_bytes=10)
    for url in (
        "",
        "a.png",
        "ftp://h/a.png",
        "http:///a.png",
        "http://h",
        "http://[x/a.png",
        "http://h:b/a.png",
        "data:image/png;base64,AAAA",
        "http://h/%00.png",
    ):
        with pytest.raises(ImageError, match="bad_url"):
            read(url)
    with pytest.raises(ImageError, match="not_found"):
        read("http://h/" + "x" * 3000)
    put(tmp_path, "big.png", b"x" * 11)
    with pytest.raises(ImageError, match="too_many_bytes: 11 bytes, at most 10"):
        read("http://h/big.png")
