"""Reads photographs from files, URLs and archives (ZIP, Parquet, MedMNIST's NPZ); archives are not unpacked."""

import json
import os
import zipfile
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.photos.discovery import Found, Refusal, path_left_out, read_regular, split_suffix
from pipeline.photos.formats import HEAD_BYTES, SUFFIXES, sniff
from pipeline.storage.paths import read_file
from pipeline.storage.url import Url
from tools.sources import tables
from tools.sources.columns import eye_in_name
from tools.sources.tables import NoTable, RawTable

LARGEST_MEMBER: Final = 1_000_000_000
"""Bytes. A larger member of a ZIP is refused before it is read; the largest photographs have 150 MB."""
ROW_GROUPS: Final = 4
"""Row groups of Parquet files that a process keeps: photographs are not read in the order of the file."""
NEEDS_PYARROW: Final = "a Parquet file needs a package: pip install 'fundus-grading[parquet]'"


class ArchiveContents(NamedTuple):
    """The content of an archive."""

    photographs: list[Found]
    tables: list[RawTable]
    unread: list[Refusal]
    names: dict[str, str]  # source -> original name of the photograph, if the archive has it


def read_zip(path: Path, source: str) -> ArchiveContents:
    """The members of a ZIP; `source` is its path below SRC."""
    stat = path.stat()
    contents = ArchiveContents([], [], [], {})
    try:
        members = [each for each in _zip(os.getpid(), str(path), stat.st_mtime_ns).infolist() if not each.is_dir()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        contents.unread.append(
            Refusal(source, f"not a ZIP that can be read ({error}); unpack it, or download it again")
        )
        return contents
    names: set[str] = set()
    for member in sorted(members, key=lambda each: each.filename.split("/")):
        within = member.filename.replace("\\", "/")
        name = f"{source}#{within}"
        if path_left_out(within):
            continue
        if name in names:
            contents.unread.append(
                Refusal(name, "a second member of the same name: unpack the archive and rename one of them")
            )
            continue
        names.add(name)
        suffix = split_suffix(member.filename)[1].lower()
        if member.flag_bits & 1:
            contents.unread.append(Refusal(name, "encrypted: unpack the archive with its password"))
        elif member.file_size > LARGEST_MEMBER:
            contents.unread.append(
                Refusal(name, f"{member.file_size:,} bytes, more than the {LARGEST_MEMBER:,} allowed")
            )
        elif suffix in SUFFIXES:
            contents.photographs.append(Found(name, member.file_size, stat.st_mtime_ns, stat.st_ctime_ns))
        elif suffix in tables.SUFFIXES:
            try:
                contents.tables.extend(tables.read_raw(name, read_zipped(path, member.filename)))
            except (NoTable, OSError) as error:
                contents.unread.append(Refusal(name, str(error)))
        elif suffix in (".zip", ".parquet", ".npz"):
            contents.unread.append(Refusal(name, "an archive in an archive: unpack the outer one"))
        else:
            with suppress(OSError):
                if sniff(read_zipped(path, member.filename, HEAD_BYTES)):
                    contents.photographs.append(Found(name, member.file_size, stat.st_mtime_ns, stat.st_ctime_ns))
                    continue
            contents.unread.append(Refusal(name, "neither a photograph nor a table"))
    return contents


def read_zipped(path: Path, member: str, size: int = -1) -> bytes:
    """The bytes of a ZIP's member, or its first `size` bytes. Raises OSError if they cannot be read."""
    try:
        archive = _zip(os.getpid(), str(path), path.stat().st_mtime_ns)
        own = member if member in archive.NameToInfo else member.replace("/", "\\")  # old programs on Windows write so
        with archive.open(own) as file:
            return file.read(size)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, NotImplementedError, ValueError) as error:
        raise OSError(f"damaged in its archive: {error}") from error


@lru_cache(maxsize=8)
def _zip(process: int, path: str, mtime_ns: int) -> zipfile.ZipFile:
    """A ZIP, opened once in each process: a forked process would share the file position with its parent."""
    return zipfile.ZipFile(path)


def read_parquet(path: Path, source: str) -> ArchiveContents:
    """The rows of a Parquet file: photographs if a column has their bytes, else a table."""
    contents = ArchiveContents([], [], [], {})
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        contents.unread.append(Refusal(source, NEEDS_PYARROW))
        return contents
    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        pictures = _picture_columns(schema)
        others = [field.name for field in schema if field.name not in pictures and _is_plain(field.type)]
        columns = {name: _spelled(schema, name, file.read(columns=[name])[name].to_pylist()) for name in others}
        names = {column: _names_inside(file, column) for column in pictures}
    except (OSError, pyarrow.ArrowException) as error:
        contents.unread.append(Refusal(source, f"not a Parquet file that can be read ({error})"))
        return contents
    count, stat = file.metadata.num_rows, path.stat()
    if not pictures:
        plain = ([columns[each][number] for each in others] for number in range(count))
        contents.tables.append(RawTable(source, [(0, others), *enumerate(plain, 1)]))
        return contents
    several = len(pictures) > 1  # such as left_image and right_image, which name the eye
    rows = [(0, ["image", *others, *(["eye"] if several and "eye" not in others else [])])]
    for number in range(count):
        for column in pictures:
            name = f"{source}#{number}" + (f"/{column}" if several else "")
            cells = [name, *(columns[each][number] for each in others)]
            rows.append((number, [*cells, eye_in_name(column)] if len(rows[0][1]) > len(cells) else cells))
            contents.photographs.append(Found(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
            if names[column][number]:
                contents.names[name] = names[column][number]
    contents.tables.append(RawTable(source, rows))
    return contents


def read_parquet_row(path: Path, member: str) -> bytes:
    """The bytes of a picture; `member` is ROW or ROW/COLUMN. Raises OSError if they cannot be read."""
    import pyarrow

    number, _, column = member.partition("/")
    row = int(number)
    try:
        starts = _group_starts(str(path), path.stat().st_mtime_ns)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        data = _row_group(str(path), path.stat().st_mtime_ns, group, column)[row - int(starts[group])]
    except (pyarrow.ArrowException, IndexError) as error:
        raise OSError(f"damaged in its Parquet file: {error}") from error
    if not data:
        raise OSError("its row has no picture")
    return data


@lru_cache(maxsize=8)
def _group_starts(path: str, mtime_ns: int) -> NDArray[np.int64]:
    """The first row of each row group."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.ParquetFile(path).metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *sizes[:-1]]).astype(np.int64)


@lru_cache(maxsize=ROW_GROUPS)
def _row_group(path: str, mtime_ns: int, group: int, column: str) -> list[bytes | None]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    pictures = column or _picture_columns(file.schema_arrow)[0]
    cells = file.read_row_group(group, columns=[pictures])[pictures].to_pylist()
    return [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]


def _picture_columns(schema: Any) -> list[str]:
    return [field.name for field in schema if _has_bytes(field.type)]


def _has_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(at).name == "bytes" for at in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_plain(kind: Any) -> bool:
    import pyarrow.types as types

    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _names_inside(file: Any, pictures: str) -> list[str]:
    """The name of each picture, "" if the column has none; the bytes are not read."""
    kind = file.schema_arrow.field(pictures).type
    if not hasattr(kind, "num_fields") or "path" not in [kind.field(at).name for at in range(kind.num_fields)]:
        return [""] * int(file.metadata.num_rows)
    column = file.read(columns=[f"{pictures}.path"])[pictures]
    return [(cell or {}).get("path") or "" for cell in column.to_pylist()]


def _spelled(schema: Any, name: str, values: list[Any]) -> list[str]:
    """Cells as text. Hugging Face's ClassLabel is an index into class names: the name is taken."""
    names: list[str] = []
    with suppress(KeyError, ValueError, TypeError, AttributeError):
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = list(features[name].get("names", []))
    if names:
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else "" for value in values]
    return [tables.cell(value) for value in values]


@lru_cache(maxsize=2)
def medmnist_arrays(path: str, mtime_ns: int) -> dict[str, "np.ndarray[Any, Any]"]:
    """The arrays of a MedMNIST file. They are kept in memory: each is compressed as one piece.

    Raises SourceError if it is another file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: not a MedMNIST file ({error})") from error


def read_source(root: Path | Url, source: str) -> bytes:
    """The bytes of a photograph of a listing; a picture in a MedMNIST file becomes a PNG.

    Raises OSError if it cannot be read, StoreError if an object store does not answer.
    """
    if isinstance(root, Url):
        return read_file(root / source)
    archive, sign, member = source.partition("#")
    if sign and not os.path.lexists(root / source):  # a file's own name may have a #
        path = root / archive
        kind = split_suffix(archive)[1].lower()
        if kind == ".zip":
            return read_zipped(path, member)
        if kind == ".parquet":
            return read_parquet_row(path, member)
        if kind == ".npz":
            import cv2

            split, _, number = member.partition("/")
            arrays = medmnist_arrays(str(path), path.stat().st_mtime_ns)
            picture = arrays[f"{split}_images"][int(number)]
            return cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)[1].tobytes()
    return read_regular(root / source)
