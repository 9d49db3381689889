"""cache.json: what a cache is. Only this module reads and writes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import CacheError
from pipeline.photos.preparation import EARLIER_VERSION, VERSION, Recipe
from pipeline.storage.artifacts import INDEX, UNFINISHED
from pipeline.storage.atomic import write_whole
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
"""Fields that came later, with the value that an index without them has: it stays, byte for byte, what it was."""


@dataclass(frozen=True)
class ShardRecord:
    nbytes: int
    sha256: str  # of the tar
    sources: str  # sha256 over its entries' ids and their photographs' sha256


@dataclass(frozen=True)
class CacheIndex:
    """What cache.json says."""

    recipe: Recipe
    split: str  # "auto", "patient", "train", "test" or the name of a table
    split_seed: int
    shards: tuple[ShardRecord, ...]
    manifest: str  # sha256 of manifest.csv
    rejects: str  # sha256 of rejects.csv
    scale: str = "icdr"  # what the grades are: ICDR, or those of another scale
    exact: bool = True  # whether that scale's steps are those of ICDR
    attributes: str = ""  # sha256 of attributes.csv, "" where no columns were kept
    copies: int = 0  # test photographs that look like a photograph of train or val
    options: tuple[str, ...] = ()  # of `tools preprocess`, those that say how SRC was read
    placed: bool = False  # whether the JSONs in the shards have each photograph's patient and split
    data_set: str = ""  # the titles of the known sets whose tables or folders gave the grades; "" where none is known

    @property
    def tables(self) -> dict[str, str]:
        """The files beside the shards -> their sha256."""
        more = {ATTRIBUTES: self.attributes} if self.attributes else {}
        return {MANIFEST: self.manifest, REJECTS: self.rejects, **more}

    @property
    def source_digest(self) -> str:
        """Identifies the photographs that were cached, whatever the recipe: sha256, 64 hex digits."""
        return hashlib.sha256("".join(record.sources for record in self.shards).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The bytes of cache.json; its `seal` is the sha256 of the rest, so that a flipped bit shows."""
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
        """Raises CacheError where cache.json is missing, damaged, or made by a version of this program whose
        photographs this one cannot prepare.

        A cache of the earlier version is read: its photographs are what weights trained on it want, and only
        `tools preprocess`, which compares recipes, makes it anew.
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
                raise CacheError(f"{folder} is incomplete, its preprocess did not finish; run it again") from error
            there = isinstance(folder, Url) or folder.is_dir()
            what = "is not a cache (it has no cache.json)" if there else "does not exist"
            raise CacheError(f"{folder} {what}; make one with `tools preprocess SRC --out {folder}`") from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CacheError(f"{path}: damaged; `tools preprocess` mends it") from error
        if data != index.to_json():
            raise CacheError(f"{path}: damaged; `tools preprocess` mends it")
        return index

    def write(self, folder: Path, name: str = INDEX) -> None:
        with write_whole(folder / name) as file:
            file.write(self.to_json())


def _seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
