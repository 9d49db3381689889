"""Shards: plain tar files in the WebDataset convention, written atomically, read by offset.

A sample is `<key>.cls` (its grade, if it has one), `<key>.jpg` and `<key>.json`. Members are sorted, and times and
owners are zero, so the same samples give the same bytes.

`<key>.json` has the CRC-32 of the JPEG and a seal over both. So each entry can be verified without the index, and a
cache that lost its index can be indexed again. If cache.json says `placed`, the JSON also has the `patient` and the
`split` of manifest.csv.
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
from pipeline.storage.artifacts import SHARDS
from pipeline.storage.atomic import write_atomically

SAMPLES_A_SHARD: Final = 256


class Entry(NamedTuple):
    """A sample to write."""

    id: str
    jpeg: bytes
    meta: dict[str, Any]  # further fields of <key>.json, in addition to id, crc32 and seal
    grade: int  # 0-4; UNKNOWN writes no <key>.cls


class WrittenEntry(NamedTuple):
    """A sample in a shard."""

    id: str
    offset: int  # of the JPEG in the shard, bytes
    nbytes: int  # size of the JPEG
    crc32: int  # of the JPEG
    meta: dict[str, Any]


def encode_key(id: str) -> str:
    """The id with everything but [A-Za-z0-9_-] percent-encoded, because WebDataset ends a key at its first dot.

    >>> encode_key("a/20_left.png")
    'a%2F20_left%2Epng'
    """
    # quote() never encodes "." and "~".
    plain = quote_from_bytes(id.encode("utf-8", "surrogateescape"), safe="")
    return plain.replace(".", "%2E").replace("~", "%7E")


def sort_key(id: str) -> str:
    """The key that sorts the members of a shard by name: "a.jpg" comes after "a-b.jpg"."""
    return f"{encode_key(id)}."


def decode_key(key: str) -> str:
    """The id that `encode_key` encoded."""
    return unquote(key, errors="surrogateescape")


def shard_count(samples: int) -> int:
    """The number of shards: the power of two that gives about SAMPLES_A_SHARD samples per shard."""
    count = 1
    while samples > count * SAMPLES_A_SHARD * 2**0.5:
        count *= 2
    return count


def shard_of(id: str, count: int) -> int:
    """The shard of an id, by its hash: a new photograph changes one shard, and twice the `count` halves each shard."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count


def shard_name(shard: int) -> str:
    return f"{shard:04d}.tar"


def shard_path(shard: int) -> str:
    """The path of a shard below its cache, with slashes."""
    return f"{SHARDS}/{shard_name(shard)}"


def is_shard_name(name: str) -> bool:
    stem, dot, suffix = name.partition(".")
    return stem.isdecimal() and f"{dot}{suffix}" == ".tar" and name == shard_name(int(stem))


def write_shard(
    path: Path, entries: Iterable[Entry], mtime_ns: int | None = None
) -> tuple[list[WrittenEntry], str, int]:
    """Writes a shard. The entries must be in the order of `sort_key`.

    Returns the written entries, and the sha256 and the size in bytes of the shard.
    """
    index: list[WrittenEntry] = []
    with write_atomically(path, mtime_ns) as file:
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
    """The intact samples of a shard; none if its file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    yield from scan_tar(data)


def scan_tar(data: bytes | mmap.mmap) -> Iterator[Entry]:
    """The intact samples of a shard: those whose JPEG and JSON match the seal.

    Damaged samples are left out. Damage is never raised, because callers repair what is missing.
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
    """id -> the first 8 bytes of the SHA-256 of the photograph's file, as a signed number.

    Samples without it are skipped, and so are damaged ones. Only the pages of the mmap with headers and JSONs are read.
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
    """A file object over an mmap that other threads read too, with a position of its own."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._position = data, 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._position + size
        part = self._data[self._position : end]
        self._position += len(part)
        return part

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


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
    """Hashes a shard while it is written. To read it back for its hash would take as long as writing it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size
