"""The metadata of weights: all that is needed to use them without their run. Imports no torch."""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pipeline.errors import RunError
from pipeline.grades import GRADES
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import open_regular
from trainer.config import STEMS, Link
from trainer.network.image_statistics import TrainingStatistics
from trainer.plugs import Plug

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values, 0 to 1, which torchvision's pretrained ResNets expect."""

_KEY: Final = "fundus_grading"
_JSON_KEYS: Final = {"ordinal_thresholds": "cuts", "statistics": "seen"}
"""Fields whose key in the file is another word: files of earlier versions have these keys."""


@dataclass(frozen=True)
class Operating:
    """The operating point: temperature and referral threshold, chosen on validation, never on test."""

    temperature: float
    """Probabilities are softmax(logits / temperature)."""
    threshold: float
    """A photograph is referred if its probability of grade 2 or worse, 0 to 1, is at least this; above 1: none is."""
    wanted: Literal["sensitivity", "specificity"]
    """The measure that the threshold was chosen for."""
    level: float
    """The least of that measure on validation, 0 to 1."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold!r}")
        if self.wanted not in ("sensitivity", "specificity") or not 0 < self.level <= 1:
            raise ValueError(
                f"an operating point is for a sensitivity or specificity in 0..1, got {self.wanted} {self.level!r}"
            )


def temperature_of(operating: Operating | None) -> float:
    """The fitted temperature; 1, which changes nothing, if none was fitted."""
    return operating.temperature if operating else 1.0


@dataclass(frozen=True)
class FittedRule:
    """A decision rule that was fitted on validation; fields as in Metadata."""

    operating: Operating | None = None
    ordinal_thresholds: tuple[float, ...] | None = None
    confidence: tuple[float, ...] | None = None


def network_title(model: str, stem: str) -> str:
    """A network in words: its architecture, and its first layers where they are not those of ImageNet's weights."""
    return model if stem == "imagenet" else f"{model} with a {stem} stem"


@dataclass(frozen=True)
class Member:
    """One network of an ensemble."""

    model: str
    """One of trainer.config.MODELS, or a function of the user's."""
    epoch: int
    """The epoch that its weights are from, counted from 1."""
    link: str
    stem: str
    """As in Metadata."""
    temperature: float
    """Its probabilities are softmax(logits / temperature)."""
    fellow_temperature: float | None = None
    """The same where the fellow eye is in its logits; None for a network that takes one eye."""

    @property
    def title(self) -> str:
        return network_title(self.model, self.stem)


@dataclass(frozen=True)
class Metadata:
    model: str
    """One of trainer.config.MODELS, or a function of the user's; of an ensemble that of its first member."""
    size: int
    """Side of the images that it was trained on, pixels."""
    recipe: Recipe
    """The preparation of photographs."""
    epoch: int
    """The epoch that the weights are from, counted from 1; 0 for an ensemble."""
    link: str = "softmax"
    """How the last layer's scores become logits, one of trainer.config.Link; "softmax" in all older files."""
    stem: str = "imagenet"
    """The first layers: "imagenet", "small" or "coarse"."""
    tta: bool = False
    """Whether the run was measured, and so is used, with test-time augmentation."""
    ordinal_thresholds: tuple[float, ...] | None = None
    """The four limits between grades, on the expected grade; None: the likeliest grade is predicted."""
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    grades: tuple[str, ...] = GRADES
    operating: Operating | None = None
    """None: the run is unfinished, or its validation photographs lack a class."""
    confidence: tuple[float, ...] | None = None
    """Percentiles, 0 to 100, of the confidence of the validation photographs (trainer.network.decision.confidence).
    None in older files, and without an operating point."""
    statistics: TrainingStatistics | None = None
    """Image statistics of the training photographs; None in older files."""
    members: tuple[Member, ...] = ()
    """The networks of an ensemble, in the order of their weights; empty for one network."""
    plugs: tuple[Plug, ...] = ()
    """The functions of the user's that the training took; of an ensemble those of all members."""
    fellow: FittedRule | None = None
    """The decision rule for photographs whose fellow eye is taken into account; None for a network that takes one eye.
    The rule in the other fields is for an eye without a fellow."""

    @property
    def title(self) -> str:
        """The network in words: its architecture, or those of an ensemble's members with their numbers."""
        if not self.members:
            return network_title(self.model, self.stem)
        counts = Counter(each.title for each in self.members)
        return f"Ensemble of {' and '.join(f'{n} {title}' for title, n in counts.items())}"

    def as_header(self) -> dict[str, str]:
        """The header of a safetensors file. It is one entry, because safetensors writes several in random order, and
        equal weights should give equal files."""
        return {_KEY: json.dumps(self.as_dict(), sort_keys=True)}

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        fields = {**asdict(self), "recipe": self.recipe.as_dict()}
        for name in ("members", "fellow", "plugs"):
            if not getattr(self, name):
                del fields[name]  # a network of one eye, by itself, has the same bytes as in earlier versions
        if not self.fellow:
            for member in fields.get("members", ()):
                del member["fellow_temperature"]
        return {_JSON_KEYS.get(name, name): value for name, value in fields.items()}

    @classmethod
    def from_header(cls, header: dict[str, str]) -> "Metadata":
        """The inverse of `as_header`. Raises ValueError for any other header."""
        try:
            fields: dict[str, Any] = json.loads(header[_KEY])
            fields["recipe"] = Recipe.from_dict(fields["recipe"])
            fields |= {name: tuple(fields[name]) for name in ("mean", "std", "grades")}
            fields |= {name: fields.pop(key) for name, key in _JSON_KEYS.items() if key in fields}
            fields |= {name: tuple(fields[name]) for name in ("ordinal_thresholds", "confidence") if fields.get(name)}
            if fields.get("operating"):
                fields["operating"] = Operating(**fields["operating"])
            if fields.get("statistics"):
                fields["statistics"] = TrainingStatistics.from_dict(fields["statistics"])
            fields["members"] = tuple(Member(**each) for each in fields.get("members", ()))
            fields["plugs"] = tuple(Plug(**each) for each in fields.get("plugs", ()))
            if fields.get("fellow"):
                fields["fellow"] = _fitted_rule(**fields["fellow"])
            metadata = cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it does not say which model it is") from error
        layered = [(each.stem, each.link) for each in metadata.members]
        for stem, link in [(metadata.stem, metadata.link), *layered]:
            if link not in get_args(Link) or stem not in STEMS:
                layers = f"{stem}, {link}"
                raise ValueError(f"its first or last layers ({layers}) are none that this version knows")
        if metadata.grades != GRADES:
            raise ValueError(f"it predicts other grades: {', '.join(map(str, metadata.grades))}")
        return metadata


def _fitted_rule(operating: Any, ordinal_thresholds: Any, confidence: Any) -> FittedRule:
    return FittedRule(
        operating and Operating(**operating),
        ordinal_thresholds and tuple(ordinal_thresholds),
        confidence and tuple(confidence),
    )


def read_metadata(path: Path) -> Metadata:
    """The metadata in a safetensors file. Raises RunError if the file is missing, damaged or not ours."""
    try:
        return Metadata.from_header(read_header(path).get("__metadata__", {}))
    except ValueError as error:
        raise RunError(f"{path} is damaged or not a model of ours: {error}") from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and data_offsets of each tensor, and "__metadata__".

    The format: 8 bytes with the header's length, little-endian; the header in JSON; the tensors. The library's own
    reader cannot open a path that is not UTF-8. Raises RunError if the file is missing, cut, or no safetensors file.
    """
    try:
        with open_regular(path) as file:
            nbytes = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= nbytes - 8:
                raise ValueError("its header is cut or none")
            header = json.loads(file.read(length))
        tensors = [value for name, value in header.items() if name != "__metadata__"]
        if 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0) != nbytes:
            raise ValueError("it is not as long as its header says")
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{path} is damaged or not a model of ours: {error}") from error
    return dict(header)
