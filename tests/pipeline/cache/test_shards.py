"""Shards are plain WebDataset tars: other people's readers read them, and the same samples make the same bytes."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.shards import (
    SAMPLES_A_SHARD,
    Entry,
    decode_key,
    encode_key,
    scan_shard,
    shard_count,
    shard_of,
    sort_key,
    write_shard,
)

IDS = ["17_left", "17_right", "17", "17-b", "a/20_left", "10_left.png", "ünï", "1,5", "..", "x" * 150]


def entries(ids: list[str] = IDS) -> list[Entry]:
    ordered = sorted(ids, key=sort_key)
    return [Entry(id, f"jpeg of {id}".encode() * 40, {"n": n}, n % 5 if n % 3 else -1) for n, id in enumerate(ordered)]


def test_tarfile_finds_every_sample_at_its_offset(tmp_path: Path) -> None:
    index, digest, nbytes = write_shard(tmp_path / "0000.tar", entries())
    data = (tmp_path / "0000.tar").read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (nbytes, digest)
    with tarfile.open(tmp_path / "0000.tar") as tar:
        members = {member.name: member for member in tar}
        assert list(members) == sorted(members)
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}
        for wanted, found in zip(entries(), index, strict=True):
            jpeg = members[f"{encode_key(wanted.id)}.jpg"]
            assert (found.id, found.offset, found.nbytes) == (wanted.id, jpeg.offset_data, jpeg.size)
            assert data[found.offset : found.offset + found.nbytes] == wanted.jpeg
            graded = f"{encode_key(wanted.id)}.cls"
            assert (graded in members) == (wanted.grade >= 0)


@pytest.mark.filterwarnings("ignore")  # what webdataset itself warns of is not ours
def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_shard(tmp_path / "0000.tar", entries())
    read = list(webdataset.WebDataset(str(tmp_path / "0000.tar"), shardshuffle=False))
    assert [decode_key(sample["__key__"]) for sample in read] == [entry.id for entry in entries()]
    for sample, entry in zip(read, entries(), strict=True):
        assert sample["jpg"] == entry.jpeg
        assert json.loads(sample["json"])["id"] == entry.id
        assert int(sample.get("cls", b"-1")) == entry.grade


def test_the_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a.tar", entries())
    assert write_shard(tmp_path / "b.tar", entries()) == first


def test_scanning_gives_back_what_was_written(tmp_path: Path) -> None:
    write_shard(tmp_path / "0000.tar", entries())
    assert list(scan_shard(tmp_path / "0000.tar")) == entries()


def test_scanning_passes_over_damaged_samples_only(tmp_path: Path) -> None:
    path = tmp_path / "0000.tar"
    index, _, _ = write_shard(path, entries())
    for victim in index:
        data = bytearray(path.read_bytes())
        data[victim.offset + 5] ^= 4  # in the JPEG
        (tmp_path / "damaged.tar").write_bytes(data)
        found = [entry.id for entry in scan_shard(tmp_path / "damaged.tar")]
        assert found == [entry.id for entry in index if entry.id != victim.id]


def test_damage_to_a_samples_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "0000.tar"
    write_shard(path, entries(["17_left"]))
    assert b'"n": 0' in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b'"n": 0', b'"n": 1'))
    assert list(scan_shard(path)) == []


@pytest.mark.parametrize("data", [b"", b"x", bytes(10240), b"\x89PNG" * 999])
def test_scanning_what_is_no_tar_finds_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "0000.tar").write_bytes(data)
    assert list(scan_shard(tmp_path / "0000.tar")) == []


@given(st.text(min_size=1))
def test_keys_are_plain_and_lead_back(id: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in id):
        return  # only those that os.fsdecode makes of odd bytes can be written
    key = encode_key(id)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-%")
    assert decode_key(key) == id


def test_a_file_name_that_is_no_utf8_survives() -> None:
    id = b"caf\xe9_left".decode("utf-8", "surrogateescape")
    assert encode_key(id) == "caf%E9_left"
    assert decode_key("caf%E9_left") == id


@pytest.mark.parametrize(("samples", "count"), [(0, 1), (1, 1), (362, 1), (363, 2), (724, 2), (725, 4), (35_126, 128)])
def test_about_256_samples_a_shard(samples: int, count: int) -> None:
    assert shard_count(samples) == count
    assert samples / count <= SAMPLES_A_SHARD * 2**0.5 + 1


@given(st.text(max_size=8), st.sampled_from([1, 2, 4, 8]))
def test_doubling_the_shards_splits_each_in_two(id: str, count: int) -> None:
    id = id.encode("utf-8", "replace").decode()
    assert shard_of(id, 2 * count) % count == shard_of(id, count)
