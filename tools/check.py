"""`tools check`: verifies that every byte of a cache is as `tools preprocess` wrote it."""

from contextlib import suppress
from pathlib import Path

from pipeline.cache.cache import open_cache
from pipeline.cache.folder import verify_files
from pipeline.cache.index import CacheIndex
from pipeline.cache.shards import scan_tar
from pipeline.errors import CacheError, PhotoError
from pipeline.photos.photo import read_photo
from pipeline.storage.url import Url


def check_cache(path: Path | Url) -> tuple[list[str], int]:
    """(problems, one line each; number of photographs checked).

    Each file is checked against its checksum in cache.json; each row of the manifest against its entry: CRC, decoding,
    size, grade, patient and split. Raises CacheError if the folder is no cache or an unfinished one.
    """
    index = CacheIndex.read(path)
    problems = verify_files(path, index)
    try:
        cache = open_cache(path)
    except CacheError as error:
        return problems or [error.message], 0  # a damaged manifest is already in `problems`
    grades: dict[str, int] = {}
    in_shards: dict[str, tuple[str, str]] = {}  # id -> patient, split
    for shard in range(len(index.shards)):
        with suppress(CacheError):  # already in `problems`
            for entry in scan_tar(cache.map_shard(shard)):
                grades[entry.id] = entry.grade
                in_shards[entry.id] = (entry.meta.get("patient", ""), entry.meta.get("split", ""))
    size = index.recipe.size
    in_manifest = cache.manifest[["id", "grade", "patient", "split"]].itertuples(index=False, name=None)
    for row, (id, grade, patient, split) in enumerate(in_manifest):
        try:
            photo = read_photo(cache.read(row))
        except (CacheError, PhotoError) as error:
            problems.append(f"{id}: {error.message}")
            continue
        if photo.image.shape != (size, size, 3):
            problems.append(f"{id}: {photo.width} x {photo.height} pixels, expected {size} x {size}")
        if grades.get(id) != grade:
            problems.append(f"{id}: grade {grade} in the manifest, {grades.get(id)} in its shard (-1: none)")
        if index.placed and in_shards.get(id, (patient, split)) != (patient, split):
            in_shard = list(in_shards[id])
            problems.append(f"{id}: patient and split {[patient, split]} in the manifest, {in_shard} in its shard")
    return problems, len(cache.manifest)
