"""The images of a batch job: each once, from wherever its bytes lie; what a listing lacks is said in one sentence."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.image_io.decode import read_image
from boxwright.deploy.batch.listing import list_images, read_entry

arrow = pytest.importorskip("pyarrow", reason="the package pyarrow, of the extra ray, is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the package pyarrow, of the extra ray, is not installed")


@pytest.fixture
def folder(tmp_path):
    """Three images, one of which lies deeper."""
    place = tmp_path / "images"
    (place / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "deep/c.png"):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(place / name)
    return place


def packed(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_a_pattern_and_an_image_of_them_give_each_image_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = list_images([folder, str(folder / "**" / "*.png"), "a.png"])
    assert [entry.key for entry in found] == [str(folder / name) for name in ("a.png", "b.png", "deep/c.png")]
    assert torch.equal(read_entry(found[2]), read_image(folder / "deep" / "c.png"))


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_paths_of_a_listing_are_below_its_folder(folder, kind):
    paths = ["a.png", "deep/c.png", str(folder / "b.png"), "a.png", "gone.png"]
    file = folder / f"listing.{kind}"
    if kind == "txt":
        file.write_text("\n".join(paths) + "\n\n")
    elif kind == "csv":
        file.write_text("\ufeffid,path\n" + "".join(f"7,{path}\n" for path in paths))
    else:
        parquet.write_table(arrow.table({"path": paths, "id": range(5)}), file)
    names = ("a.png", "deep/c.png", "b.png", "gone.png")
    assert [(e.key, e.kind) for e in list_images([file])] == [(str(folder / name), "file") for name in names]


@pytest.mark.parametrize("name", ["key", "path"])
def test_images_inside_parquet_files(folder, tmp_path, name):
    data = [(folder / "a.png").read_bytes(), None, b"", (folder / "b.png").read_bytes(), b"no image"]
    place = tmp_path / "tables"
    place.mkdir()
    parquet.write_table(arrow.table({name: list("pqrst"), "bytes": data}), place / "0.parquet", row_group_size=2)
    found = list_images([place])
    assert [(entry.key, entry.at, entry.length) for entry in found] == [
        ("p", 0, 0), ("q", 0, 1), ("r", 1, 0), ("s", 1, 1), ("t", 2, 0)]  # fmt: skip
    assert torch.equal(read_entry(found[3]), read_image(folder / "b.png"))
    for entry, sentence in ((found[1], "q: the image is empty"), (found[2], "r: the image is empty"),
                            (found[4], "t: not an image that can be read")):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            read_entry(entry)


def test_members_of_a_shard_that_are_images(folder, tmp_path):
    data = (folder / "a.png").read_bytes()
    members = {"0.json": b"{}", "0.png": data, "0.seg.png": data, "x/1.JPG": data[:200], "x/1.cls": b"3"}
    shard = packed(tmp_path / "0.tar", members)
    packed(tmp_path / "1.tar", {"0.png": data})
    found = list_images([str(tmp_path / "*.tar")])
    keys = [str(shard / "0.png"), str(shard / "x" / "1.JPG"), str(tmp_path / "1.tar" / "0.png")]
    assert [entry.key for entry in found] == keys
    assert torch.equal(read_entry(found[0]), read_image(folder / "a.png"))
    with pytest.raises(ValueError, match=r"1\.JPG: .*damaged or cut short"):
        read_entry(found[1])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("l.csv", "id,file\n1,a.png\n", "l.csv: expected a column path, got id, file"),
        ("l.csv", "", "l.csv: expected a column path, got none"),
        ("l.csv", "id,path\n1\n", "l.csv, line 2: no path"),
        ("l.parquet", {"file": ["a.png"]}, "l.parquet: expected a column path, got file"),
        ("l.parquet", {"bytes": [b"1"]}, "l.parquet: expected a column key, got bytes"),
        ("l.parquet", {"path": ["a.png", None]}, "l.parquet: row 1 of row group 0 has no path"),
        ("l.parquet", {"key": ["k", "k"], "bytes": [b"1", b"2"]}, "two images have the key 'k'"),
        ("l.parquet", "hello", "l.parquet: not a parquet file"),
        ("l.tar", "hello", "l.tar: not a tar archive, or a compressed or damaged one"),
        ("l.txt", "s3://bucket/a.png", "s3://bucket/a.png: a URL; images are read from files"),
    ],
)
def test_what_a_listing_lacks_is_said(tmp_path, name, content, sentence):
    if isinstance(content, dict):
        parquet.write_table(arrow.table(content), tmp_path / name)
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        list_images([tmp_path / name])
    assert sentence in str(caught.value)


def test_a_row_group_too_large_for_a_worker_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("boxwright.deploy.batch.listing.MOST_BYTES", 100_000)
    columns = {"key": list("abcdefgh"), "bytes": [np.random.default_rng(n).bytes(20_000) for n in range(8)]}
    parquet.write_table(arrow.table(columns), tmp_path / "l.parquet")
    with pytest.raises(ValueError, match=r"8 images of .* in one row group"):
        list_images([tmp_path / "l.parquet"])
    parquet.write_table(arrow.table(columns), tmp_path / "l.parquet", row_group_size=1)
    assert len(list_images([tmp_path / "l.parquet"])) == 8


def test_folders_and_tables_called_like_images(folder, tmp_path):
    """A sub-folder named like an image is none, and neither keeps its folder from standing for its shards."""
    (folder / "d.png").mkdir()
    (folder / "l.png").symlink_to(folder / "gone.png")
    assert [entry.key for entry in list_images([folder])] == [
        str(folder / name) for name in ("a.png", "b.png", "l.png")
    ]
    with pytest.raises(FileNotFoundError, match="a link to a file that is not there"):
        read_entry(list_images([folder])[2])
    shards = tmp_path / "shards"
    (shards / "thumbs.png").mkdir(parents=True)
    (shards / "old.tar").mkdir()
    packed(shards / "0.tar", {"x.png": (folder / "a.png").read_bytes(), "x.jfif": b"1", "x.eps": b"2"})
    assert [entry.key for entry in list_images([shards])] == [f"{shards}/0.tar/x.png", f"{shards}/0.tar/x.jfif"]
