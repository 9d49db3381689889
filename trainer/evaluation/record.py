"""The record in metrics_<split>.json, and in the metrics.json of an external set: written as JSON, read back typed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from trainer.evaluation.refit import Refit
from trainer.evaluation.results import Results
from trainer.evaluation.subgroups import Subgroups
from trainer.network.image_statistics import Drift
from trainer.network.provenance import Exposure
from trainer.records import optional, read


class Scale(NamedTuple):
    """The scale of the grades."""

    name: str
    exact: bool
    """Whether its steps are those of ICDR."""


ICDR: Final = Scale("icdr", True)


@dataclass(frozen=True)
class OriginalSize:
    """Number of an external set's originals of one size. The size is used in place of the camera, which is unknown."""

    size: str
    """Such as "1024 x 683 px", or "3 other sizes"."""
    photographs: int


@dataclass(frozen=True)
class FellowCopy:
    """The figures of copying the true grade of the patient's other eye: a ceiling for a network that takes that eye
    into account, because no network sees the grade."""

    photographs: int
    """Graded photographs whose other eye is graded too. All figures are of these."""
    accuracy: float
    kappa: float
    network_accuracy: float
    """Of the network."""
    network_kappa: float


@dataclass(frozen=True, kw_only=True)
class SetDescription:
    """The part of the record that only an external set has. Earlier versions did not write fields that have a
    default."""

    name: str
    place: str
    """Path or URL of the cache, as it was given."""
    prevalence: float
    """Share of referable photographs among the graded ones, 0 to 1."""
    ungraded: int = 0
    """Photographs without a grade, which are not measured."""
    ungradable: int
    """Graded photographs that are flagged ungradable."""
    synthetic: int = 0
    """Graded photographs that were drawn or painted."""
    data_set: str = ""
    """Title of the known data set; "" if none was recognised."""
    other_recipe: bool
    """Whether its photographs were prepared in another way than those of training."""
    cameras: list[OriginalSize]
    drift: Drift | None
    """None if the weights carry no image statistics."""
    refit: Refit | None
    """None if no threshold was refitted."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "drift": self.drift and self.drift._asdict()}


@dataclass(frozen=True, eq=False, kw_only=True)
class MetricsRecord:
    """The results of a split, or of an external set, and what they were measured on."""

    split: str
    """The split; "all" for a whole external set."""
    digest: str
    """Digest of the cache; "" in records of earlier versions, which are of the run's own cache."""
    results: Results
    scale: Scale = ICDR
    subgroups: Subgroups | None = None
    """None if none were asked for."""
    exposure: Exposure | None = None
    """None if the weights carry no provenance, and for the train split of the run's own cache."""
    description: SetDescription | None = None
    """Only for an external set."""
    fellow_copy: FellowCopy | None = None
    """Only for a network that takes the fellow eye into account."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "cache": self.digest,
            **(self.description.as_dict() if self.description else {}),
            **self.results.as_dict(),
            **({} if self.scale.name == ICDR.name else {"scale": self.scale}),
            "subgroups": self.subgroups and asdict(self.subgroups),
            "exposure": self.exposure and self.exposure._asdict(),
            **({"fellow_copy": asdict(self.fellow_copy)} if self.fellow_copy else {}),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> "MetricsRecord":
        """The inverse of `as_dict`, after JSON.

        Raises ValueError if a part is damaged, or of a version in which not every figure had an interval.
        """
        part = written.get
        scale = read(tuple[str, bool], part("scale", list(ICDR)), "scale")
        return cls(
            split=read(str, part("split", ""), "split"),
            digest=read(str, part("cache", ""), "cache"),
            results=Results.from_dict(written),
            scale=Scale(*scale),
            subgroups=optional(Subgroups, part("subgroups"), "subgroups"),
            exposure=optional(Exposure, part("exposure"), "exposure"),
            description=read(SetDescription, written) if "place" in written else None,
            fellow_copy=optional(FellowCopy, part("fellow_copy"), "fellow_copy"),
        )
