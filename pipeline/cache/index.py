"""cache.json, the index of a cache. Only this module reads and writes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.cache.shards import shard_path
from pipeline.errors import CacheError
from pipeline.photos.preparation import EARLIER_VERSION, VERSION, Recipe
from pipeline.storage.artifacts import INDEX, UNFINISHED
from pipeline.storage.atomic import write_atomically
from pipeline.storage.paths import exists, read_file
from pipeline.storage.url import Url

FORMAT: Final = 1
MANIFEST: Final = "manifest.csv"
REJECTS: Final = "rejects.csv"
ATTRIBUTES: Final = "attributes.csv"
_ADDED_LATER: Final[dict[str, object]] = {
    "scale": "icdr",
    "exact": True,
    "attributes": "",
    "copies": 0,
    "options": (),
    "placed": False,
    "data_set": "",
}
"""Fields that later versions added, and their default. A default is not written, so that the bytes of older caches stay
the same."""


@dataclass(frozen=True)
class ShardRecord:
    """What cache.json says about one shard."""

    nbytes: int  # size of the tar
    sha256: str  # of the tar
    sources: str  # sha256 over the ids of its entries and the sha256 of their photographs


@dataclass(frozen=True)
class CacheIndex:
    """The content of cache.json."""

    recipe: Recipe
    split: str  # "auto", "patient", "train", "test" or the name of a table
    split_seed: int
    shards: tuple[ShardRecord, ...]
    manifest: str  # sha256 of manifest.csv
    rejects: str  # sha256 of rejects.csv
    scale: str = "icdr"  # name of the grading scale
    exact: bool = True  # whether the grades of that scale match those of ICDR one to one
    attributes: str = ""  # sha256 of attributes.csv, "" if no columns were kept
    copies: int = 0  # test photographs that look like a photograph of train or val
    options: tuple[str, ...] = ()  # the options of `tools preprocess` that say how SRC was read
    placed: bool = False  # whether the JSONs in the shards have the patient and the split of each photograph
    data_set: str = ""  # titles of the known data sets that the grades come from; "" if none is known

    @property
    def tables(self) -> dict[str, str]:
        """Name of each table in the folder -> its sha256."""
        more = {ATTRIBUTES: self.attributes} if self.attributes else {}
        return {MANIFEST: self.manifest, REJECTS: self.rejects, **more}

    @property
    def shard_digests(self) -> dict[str, str]:
        """Path of each shard below the folder -> its sha256."""
        return {shard_path(number): record.sha256 for number, record in enumerate(self.shards)}

    @property
    def source_digest(self) -> str:
        """Identifies the cached photographs, independent of the recipe: sha256, 64 hex digits."""
        return hashlib.sha256("".join(record.sources for record in self.shards).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The bytes of cache.json. Its `seal` is the sha256 of the other fields, so that damage is found."""
        fields = {
            "format": FORMAT,
            "source_digest": self.source_digest,
            **asdict(self),
            "recipe": self.recipe.as_dict(),
        }
        fields = {
            name: value for name, value in fields.items() if name not in _ADDED_LATER or value != _ADDED_LATER[name]
        }
        return (json.dumps({**fields, "seal": _seal(fields)}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def read(cls, folder: Path | Url, name: str = INDEX) -> "CacheIndex":
        """Reads cache.json.

        A cache of the earlier recipe version is read too: weights that were trained on it need its pixels. Only
        `tools preprocess` builds such a cache again, because it compares recipes.

        Raises CacheError if cache.json is missing, damaged, or of another version of this program.
        """
        path = folder / name
        try:
            data = read_file(path)
            fields: dict[str, Any] = json.loads(data)
            if fields.pop("seal") != _seal(fields):
                raise ValueError("broken seal")
            recipe = fields["recipe"]
            if fields.pop("format") != FORMAT or recipe["version"] not in (
                VERSION,
                EARLIER_VERSION.get(recipe["enhance"]),
            ):
                raise CacheError(f"{folder} was made by another version of this program; run `tools preprocess` again")
            del fields["source_digest"]
            fields["recipe"] = Recipe.from_dict(recipe)
            fields["shards"] = tuple(ShardRecord(**record) for record in fields["shards"])
            fields["options"] = tuple(fields.get("options", ()))
            index = cls(**fields)
        except FileNotFoundError as error:
            if exists(folder / UNFINISHED):
                raise CacheError(f"{folder} is incomplete: `tools preprocess` did not finish; run it again") from error
            there = isinstance(folder, Url) or folder.is_dir()
            what = "is not a cache (it has no cache.json)" if there else "does not exist"
            raise CacheError(f"{folder} {what}; make one with `tools preprocess SRC --out {folder}`") from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CacheError(f"{path}: damaged; `tools preprocess` repairs it") from error
        if data != index.to_json():
            raise CacheError(f"{path}: damaged; `tools preprocess` repairs it")
        return index

    def write(self, folder: Path, name: str = INDEX) -> None:
        with write_atomically(folder / name) as file:
            file.write(self.to_json())


def _seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
