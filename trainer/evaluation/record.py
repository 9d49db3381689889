"""What metrics_<split>.json, or the metrics.json of an external set, says: written as plain JSON, read back typed."""

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
    """What grades were given on."""

    name: str
    exact: bool
    """Whether its steps are those of ICDR."""


ICDR: Final = Scale("icdr", True)


@dataclass(frozen=True)
class OriginalSize:
    """How many of an external set's originals have a size, which stands in for their camera."""

    size: str
    """Such as 1024 x 683 px; of the rest together, 3 other sizes."""
    photographs: int


@dataclass(frozen=True, kw_only=True)
class SetDescription:
    """What is said of an external set besides its results. What has a default was not written by earlier versions."""

    name: str
    place: str
    """Where the cache lies, as it was given."""
    prevalence: float
    """Of referable retinopathy among the graded photographs, 0 to 1."""
    ungraded: int = 0
    """Photographs without a grade, which are left out."""
    ungradable: int
    """Graded photographs that are flagged so."""
    synthetic: int = 0
    """Graded photographs that were drawn or painted."""
    data_set: str = ""
    """Its title, where it is a known one."""
    other_recipe: bool
    """Whether its photographs were prepared in another way than those of training."""
    cameras: list[OriginalSize]
    drift: Drift | None
    """None where the weights do not say what training photographs look like."""
    refit: Refit | None
    """None where no threshold was chosen anew."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "drift": self.drift and self.drift._asdict()}


@dataclass(frozen=True, eq=False, kw_only=True)
class MetricsRecord:
    """Photographs as they were measured."""

    split: str
    """Or "all" of an external set."""
    digest: str
    """Of the cache; "" in records of earlier versions, which were about the run's own."""
    results: Results
    scale: Scale = ICDR
    subgroups: Subgroups | None = None
    """None where none were asked for."""
    exposure: Exposure | None = None
    """None where nobody knows what the weights have met, and for photographs that they were trained on, of course."""
    description: SetDescription | None = None
    """Of an external set alone."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "cache": self.digest,
            **(self.description.as_dict() if self.description else {}),
            **self.results.as_dict(),
            **({} if self.scale.name == ICDR.name else {"scale": self.scale}),
            "subgroups": self.subgroups and asdict(self.subgroups),
            "exposure": self.exposure and self.exposure._asdict(),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> "MetricsRecord":
        """From what `as_dict` gives, after its way through JSON.

        Raises ValueError where a part is damaged, or of a version before every figure had an interval.
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
        )
