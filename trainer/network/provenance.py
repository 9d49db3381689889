"""Provenance: the photographs that weights were trained on and chosen by, and how many of a measured split are among
them.

Weights carry it as digests of the photographs' files, grouped by patient. Names and ids would not do: they can be
guessed, and another clinic's patient 17 is another person. Imports torch only when it is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.cache import Cache
from pipeline.cache.splits import patients_of

if TYPE_CHECKING:
    from torch import Tensor

TRAINED: Final = 0
CHOSEN: Final = 1
"""The epoch, the temperature and the thresholds were chosen by it (validation)."""
OTHER: Final = 2
"""Another photograph of a patient of train or validation."""
ROLES: Final = {"train": TRAINED, "val": CHOSEN}


class Exposure(NamedTuple):
    """How many graded photographs of a split are known to the weights."""

    photographs: int
    """All graded photographs of the split."""
    trained_on: int
    """Photographs of patients that are in train."""
    same: int
    """Photographs that are in train themselves."""
    chosen_by: int
    """Photographs of patients that are in validation and not in train."""


@dataclass(frozen=True, eq=False)
class Provenance:
    """All photographs of every patient in train or validation, sorted by digest."""

    digests: NDArray[np.int64]
    """(n,) the first 8 bytes of the SHA-256 of the photograph's file. With a million photographs in train and a million
    others, the probability that one pair is equal by chance is 5e-8."""
    patients: NDArray[np.int32]
    """(n,) numbers from 0, in the order of the patients' first digests."""
    roles: NDArray[np.uint8]
    """(n,) TRAINED, CHOSEN or OTHER."""

    @classmethod
    def of_cache(cls, cache: Cache) -> "Provenance":
        """The provenance of weights that are trained on a cache. Photographs without a digest are left out."""
        roles = cache.manifest["split"].map(ROLES).fillna(OTHER).to_numpy(np.uint8)
        patients = _patients(cache)
        (rows,) = np.nonzero(pd.Series(roles).groupby(patients).transform("min").to_numpy() < OTHER)
        digests = cache.source_digests(rows)
        known = digests != 0
        return cls._sorted(digests[known], patients[rows[known]], roles[rows[known]])

    @classmethod
    def _sorted(cls, digests: NDArray[np.int64], patients: NDArray[np.int64], roles: NDArray[np.uint8]) -> "Provenance":
        order = np.lexsort((patients, roles, digests))
        return cls(digests[order], pd.factorize(patients[order])[0].astype(np.int32), roles[order])

    def as_tensors(self) -> dict[str, "Tensor"]:
        """As tensors by name, for a file of weights or a checkpoint."""
        import torch

        return {name: torch.from_numpy(value) for name, value in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: "Mapping[str, Tensor] | None") -> "Provenance | None":
        """The inverse of `as_tensors`; None for anything else, as from files of earlier versions."""
        if tensors is None or tensors.keys() != {"digests", "patients", "roles"}:
            return None
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()})

    def after(self, earlier: "Provenance | None") -> "Provenance":
        """The provenance of weights whose training began with other weights: the photographs of both."""
        if earlier is None:
            return self
        patients = np.concatenate([self.patients, earlier.patients + len(self.patients)])  # no number twice
        return self._sorted(
            np.concatenate([self.digests, earlier.digests]), patients, np.concatenate([self.roles, earlier.roles])
        )

    def exposure(self, cache: Cache, split: str) -> Exposure:
        """How much of a cache's split the weights know. A patient is recognised by any photograph in the cache."""
        measured, patients = cache.graded_rows(split), _patients(cache)
        (rows,) = np.nonzero(np.isin(patients, patients[measured]))
        own = pd.DataFrame({"digest": self.digests, "patient": self.patients, "role": self.roles})
        own["worst"] = own.groupby("patient")["role"].transform("min")
        known = own.groupby("digest")[["role", "worst"]].min()
        mine = known.reindex(cache.source_digests(rows)).fillna(OTHER).set_axis(rows)
        by_patient = mine["worst"].groupby(patients[rows]).min()
        worst = by_patient.reindex(patients[measured]).to_numpy()
        return Exposure(
            len(measured),
            trained_on=int((worst == TRAINED).sum()),
            same=int((mine["role"].reindex(measured) == TRAINED).sum()),
            chosen_by=int((worst == CHOSEN).sum()),
        )


def _patients(cache: Cache) -> NDArray[np.int64]:
    """(rows,) the number of each row's patient."""
    return pd.factorize(patients_of(cache.manifest, cache.manifest["id"]))[0].astype(np.int64)
