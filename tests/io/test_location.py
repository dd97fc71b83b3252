"""Locations: one code for paths and URLs, exclusive and atomic writes, and nothing lost or leaked."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcryo.errors import InputError
from dcryo.io import location


def test_join_and_normalise() -> None:
    assert location.join("s3://bucket/a/", "b", "c.json") == "s3://bucket/a/b/c.json"
    assert location.join("/x/y", "z") == "/x/y/z"
    assert location.normalise("s3://bucket/a/") == "s3://bucket/a"
    assert location.normalise("run.zarr") == str(Path.cwd() / "run.zarr")
    assert location.normalise(Path("/x/y/")) == "/x/y"
    assert location.normalise("~/a") == str(Path.home() / "a")


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match=r"ftp://host/a: the scheme ftp:// is not known; use a path, s3://"):
        location.is_remote("ftp://host/a")


@pytest.mark.parametrize("url", ["s3://me:topsecret@bucket/a", "s3://bucket/a?token=topsecret"])
def test_keys_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="environment") as caught:
        location.object_store(url)
    assert "topsecret" not in str(caught.value)


def test_missing_bucket_and_empty_path() -> None:
    with pytest.raises(InputError, match="the bucket is missing"):
        location.is_remote("s3:///a")
    with pytest.raises(InputError, match="empty path"):
        location.normalise("")


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent is not a folder"):
        location.object_store(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        location.read_bytes(tmp_path / "absent" / "a.json")
    assert location.children(tmp_path / "absent") == []
    assert list(tmp_path.iterdir()) == []


# Percent signs, blanks, non-ASCII letters and '#' are what URL-minded code gets wrong in paths.
@pytest.mark.parametrize("folder", ["plain", "a b", "50%25", "ribosom#1", "Zürich µ"])
def test_bytes_round_trip(tmp_path: Path, folder: str) -> None:
    url = tmp_path / folder / "deep" / "a.json"
    location.write_bytes(url, b"one")
    location.write_bytes(url, b"second")
    assert url.read_bytes() == location.read_bytes(url) == b"second"
    assert location.exists(url)
    assert location.exists(tmp_path / folder)
    assert not location.exists(tmp_path / folder / "b")
    assert location.children(tmp_path / folder) == ["deep"]
    assert location.sizes(tmp_path / folder) == {"deep/a.json": 6}
    location.sync(url)
    location.remove_file(url)
    location.remove_file(url)
    assert not url.exists()


def test_presence_is_what_a_listing_says(tmp_path: Path) -> None:
    location.write_bytes(tmp_path / "store" / "deep" / "a.json", b"{}")
    (tmp_path / "store" / "folder").mkdir()
    present = location.Present(tmp_path / "store")
    keys = ["deep/a.json", "deep/b.json", "deep", "folder", "a.json"]
    assert [key in present for key in keys] == [key in location.sizes(tmp_path / "store") for key in keys]
    assert "deep/a.json" in present
    assert "deep/a.json" not in location.Present(tmp_path / "nothing")


def test_exactly_one_exclusive_writer_wins(tmp_path: Path) -> None:
    url = str(tmp_path / "commits" / "k.json")
    contents = [bytes([65 + i]) * 1000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda content: location.put_exclusive(url, content), contents))
    assert sum(won) == 1
    assert Path(url).read_bytes() == contents[won.index(True)]
    assert os.listdir(tmp_path / "commits") == ["k.json"]


def test_a_removal_cut_short_keeps_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x", "z/x", "zarr.json"):
        location.write_bytes(tmp_path / "store" / name, b"1")

    def dies(path: str) -> None:
        raise OSError(f"no more: {path}")

    with monkeypatch.context() as patch:
        patch.setattr("dcryo.io.location.shutil.rmtree", dies)
        with pytest.raises(InputError, match=r"store cannot be read or written \(no more: .*; check"):
            location.remove_tree(tmp_path / "store", last="zarr.json")
    assert (tmp_path / "store" / "zarr.json").exists()
    location.remove_tree(tmp_path / "store", last="zarr.json")
    assert not (tmp_path / "store").exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    location.write_bytes(tmp_path / "mine" / "data", b"1")
    location.write_bytes(tmp_path / "store" / "zarr.json", b"1")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "mine", target_is_directory=True)
    location.remove_tree(tmp_path / "store")
    assert (tmp_path / "mine" / "data").exists()


def test_a_refusal_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        location.write_bytes(tmp_path / "file" / "a.json", b"1")
    assert "file cannot be read or written" in str(caught.value)
    assert "\n" not in str(caught.value)
