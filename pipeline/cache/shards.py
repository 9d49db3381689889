"""Shards: plain tar files in the WebDataset convention, written whole or not at all, read by offset.

A sample is `<key>.cls` (its grade, where it has one), `<key>.jpg` and `<key>.json`. Members are sorted, times and
owners zeroed, so the same samples make the same bytes. `<key>.json` carries the CRC-32 of its JPEG and a seal over
both: a shard proves its own entries, and a cache whose index was lost can be indexed again. It also has the `patient`
and the `split` of manifest.csv, where cache.json says `placed`.
"""

import hashlib
import io
import json
import mmap
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast
from urllib.parse import quote_from_bytes, unquote

from pipeline.grades import UNKNOWN, parse_grade
from pipeline.storage.atomic import write_whole

SAMPLES_A_SHARD: Final = 256


class Entry(NamedTuple):
    """A sample to write."""

    id: str
    jpeg: bytes
    meta: dict[str, Any]  # goes into <key>.json, beside id, crc32 and seal
    grade: int  # UNKNOWN: no <key>.cls


class WrittenEntry(NamedTuple):
    """Where a written sample lies."""

    id: str
    offset: int
    nbytes: int
    crc32: int
    meta: dict[str, Any]


def encode_key(id: str) -> str:
    """The id with all but [A-Za-z0-9_-] percent-encoded: WebDataset ends a key at its first dot.

    >>> encode_key("a/20_left.png")
    'a%2F20_left%2Epng'
    """
    # quote() never encodes ".", "~": what it leaves of them is done here.
    plain = quote_from_bytes(id.encode("utf-8", "surrogateescape"), safe="")
    return plain.replace(".", "%2E").replace("~", "%7E")


def sort_key(id: str) -> str:
    """Sorting by it sorts a shard's members by name: "a.jpg" comes after "a-b.jpg"."""
    return f"{encode_key(id)}."


def decode_key(key: str) -> str:
    return unquote(key, errors="surrogateescape")


def shard_count(samples: int) -> int:
    """The power of two that keeps about 256 samples a shard."""
    count = 1
    while samples > count * SAMPLES_A_SHARD * 2**0.5:
        count *= 2
    return count


def shard_of(id: str, count: int) -> int:
    """By a hash of the id: a new photograph touches one shard, and doubling `count` splits each shard in two."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count


def shard_name(shard: int) -> str:
    return f"{shard:04d}.tar"


def is_shard_name(name: str) -> bool:
    stem, dot, suffix = name.partition(".")
    return stem.isdecimal() and f"{dot}{suffix}" == ".tar" and name == shard_name(int(stem))


def write_shard(
    path: Path, entries: Iterable[Entry], mtime_ns: int | None = None
) -> tuple[list[WrittenEntry], str, int]:
    """Writes the entries, which must come in the order of `sort_key`.

    Returns their index, and the shard's sha256 and size in bytes.
    """
    index: list[WrittenEntry] = []
    with write_whole(path, mtime_ns) as file:
        hashed = _Hashing(file)
        with tarfile.open(fileobj=cast(IO[bytes], hashed), mode="w", format=tarfile.GNU_FORMAT) as tar:
            for id, jpeg, meta, grade in entries:
                key = encode_key(id)
                crc32 = zlib.crc32(jpeg)
                if grade >= 0:
                    _add(tar, f"{key}.cls", str(grade).encode())
                end = _add(tar, f"{key}.jpg", jpeg)
                index.append(WrittenEntry(id, end, len(jpeg), crc32, meta))
                _add(tar, f"{key}.json", _entry_json(id, meta, crc32))
    return index, hashed.sha256.hexdigest(), hashed.size


def scan_shard(path: Path) -> Iterator[Entry]:
    """The samples of a shard that are whole; none of one that cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    yield from scan_tar(data)


def scan_tar(data: bytes | mmap.mmap) -> Iterator[Entry]:
    """The samples of a shard that are whole: JPEG and JSON are those that the JSON's seal was put under.

    Damage ends or thins the listing; it never raises, for whoever scans is about to mend.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            spans = {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}
    except (OSError, tarfile.TarError):
        return
    members = {name: data[offset : offset + size] for name, (offset, size) in spans.items()}
    for name, text in members.items():
        key, _, kind = name.partition(".")
        if kind != "json" or f"{key}.jpg" not in members:
            continue
        jpeg = members[f"{key}.jpg"]
        try:
            meta = json.loads(text)
            id = meta.pop("id")
            del meta["crc32"], meta["seal"]
            grade = parse_grade(members[f"{key}.cls"].decode()) if f"{key}.cls" in members else UNKNOWN
        except (ValueError, KeyError, AttributeError):
            continue
        if id == decode_key(key) and text == _entry_json(id, meta, zlib.crc32(jpeg)):
            yield Entry(id, jpeg, meta, grade)


def scan_sources(data: mmap.mmap) -> dict[str, int]:
    """id -> the first 8 bytes of the SHA-256 of the photograph's file, as a signed number, for the samples that tell.

    Of a map only the pages of headers and JSONs are read. Damage ends or thins the listing, as in `scan_tar`.
    """
    found: dict[str, int] = {}
    with suppress(OSError, tarfile.TarError), tarfile.open(fileobj=cast(IO[bytes], _Window(data))) as tar:
        for member in tar:
            if member.name.endswith(".json"):
                with suppress(ValueError, KeyError, TypeError):
                    fields = json.loads(data[member.offset_data : member.offset_data + member.size])
                    first = bytes.fromhex(fields["source_sha256"])[:8]
                    found[fields["id"]] = int.from_bytes(first, "big", signed=True)
    return found


class _Window:
    """A file over a map that others read too: it has a place of its own."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        part = self._data[self._at : end]
        self._at += len(part)
        return part

    def seek(self, at: int) -> int:
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


def _entry_json(id: str, meta: dict[str, Any], crc32: int) -> bytes:
    """The bytes of <key>.json. Its `seal` is the CRC-32 of the JPEG followed by this JSON without the seal."""
    fields = {"id": id, "crc32": crc32, **meta}
    seal = zlib.crc32(json.dumps(fields, sort_keys=True).encode(), crc32)
    return json.dumps({**fields, "seal": seal}, sort_keys=True).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Appends a member and returns the offset of its data."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return int(tar.offset) - padded


class _Hashing:
    """Hashes what passes on its way to the file: reading a shard back to hash it would cost as much again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size
