"""The patient, the eye and kept columns from the tags of DICOM files."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from pipeline.errors import StoreError
from pipeline.photos.dicom import HEADER, KEPT, SUFFIXES, Tags, read_tags
from pipeline.photos.discovery import Found, split_suffix
from pipeline.photos.formats import SUFFIXES as OF_PHOTOGRAPHS
from pipeline.storage import object_store
from pipeline.storage.artifacts import open_regular
from pipeline.storage.url import Url
from pipeline.threads import ThreadPool
from tools.sources.columns import fold, patient_cell
from tools.sources.listing import ListedSample
from tools.sources.matching import name_of

THREADS: Final = 16  # headers are short; the time goes to the file server
MOST_OF_ONE: Final = 20
"""If all files have one patient, that patient has at most this many; if there are more, anonymisation wrote one id
everywhere."""


def tags_of(root: Path | Url, photographs: Sequence[Found], read: Callable[[str], bytes]) -> dict[str, Tags]:
    """source -> tags, of each photograph that is a DICOM file. Only the beginning of a file is read, where it is
    enough."""
    candidates = [file.source for file in photographs if _may_be(file.source)]
    with ThreadPool(THREADS) as pool:
        tags = pool.map(lambda source: _tags(root, source, read), candidates)
        return {source: each for source, each in zip(candidates, tags, strict=True) if each is not None}


def _may_be(source: str) -> bool:
    suffix = split_suffix(name_of(source))[1].lower()
    return suffix in SUFFIXES or (suffix not in OF_PHOTOGRAPHS and ".parquet#" not in source.lower())


def _tags(root: Path | Url, source: str, read: Callable[[str], bytes]) -> Tags | None:
    """The tags of a file; None also if it cannot be read: reading its picture will report why."""
    try:
        if isinstance(root, Url):
            tags = read_tags(BytesIO(object_store.read(root / source, part=(0, HEADER))))
            return tags if tags is None or tags.complete else read_tags(BytesIO(read(source)))
        if (root / source).is_file():
            with open_regular(root / source) as file:
                return read_tags(file)
        return read_tags(BytesIO(read(source)))
    except (OSError, StoreError):
        return None


def patients_of(
    tags: Mapping[str, Tags], name_patient: Callable[[str], str]
) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """(source -> (patient, eye), each "" if not known; notes for the user)."""
    known = {source: patient for source, each in tags.items() if (patient := patient_cell(each.patient))}
    counts, notes = Counter(known.values()), []
    if len(counts) == 1 and len(known) > MOST_OF_ONE:
        notes.append(f"the tags of {len(known)} DICOM files name one patient; that is not believed")
        known = {}
    names = {patient: name_patient(patient) for patient in sorted({*known.values()})}
    return {source: (names[known[source]] if source in known else "", each.eye) for source, each in tags.items()}, notes


def with_kept(samples: Sequence[ListedSample], keep: Sequence[str], tags: Mapping[str, Tags]) -> list[ListedSample]:
    """The samples; empty cells of kept columns are filled from tags."""
    if not keep:
        return list(samples)
    filled = []
    for sample in samples:
        of_file = tags[sample.file.source].kept if sample.file.source in tags else {}
        cells = sample.kept or ("",) * len(keep)
        cells = tuple(cell or of_file.get(fold(name), "") for name, cell in zip(keep, cells, strict=True))
        filled.append(sample._replace(kept=cells))
    return filled


def may_keep(name: str) -> bool:
    """Whether tags may have a column to keep."""
    return fold(name) in KEPT
