"""Which photographs weights were trained on and chosen by, and how many of those that are measured are among them.

Weights carry it as digests of the photographs' own files, grouped by patient. Names and ids would not do: numbers can
be guessed, and another clinic's patient 17 is another person. Imports no torch before it is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.cache import Cache
from pipeline.cache.splits import patients_of
from pipeline.grades import UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

TRAINED: Final = 0
CHOSEN: Final = 1
"""Epoch, temperature and thresholds were chosen by it."""
OTHER: Final = 2
"""Another photograph of a patient who has one of these."""
ROLES: Final = {"train": TRAINED, "val": CHOSEN}


class Exposure(NamedTuple):
    """How many of a split's graded photographs weights have met."""

    photographs: int
    """All of them."""
    trained_on: int
    """Those of patients whom the weights were trained on."""
    same: int
    """Those that the weights were trained on themselves."""
    chosen_by: int
    """Those of other patients, by whom the weights were chosen."""


@dataclass(frozen=True, eq=False)
class Provenance:
    """The photographs of every patient whom weights were trained on or chosen by, a place each, digests ascending."""

    digests: NDArray[np.int64]
    """(n,) the first 8 bytes of the SHA-256 of the photograph's file. Of a million photographs that were trained on and
    a million others one pair is alike by chance with a probability of 5e-8."""
    patients: NDArray[np.int32]
    """(n,) numbers from 0 on, in the order of their first digest."""
    roles: NDArray[np.uint8]
    """(n,) TRAINED, CHOSEN or OTHER."""

    @classmethod
    def of_cache(cls, cache: Cache) -> "Provenance":
        """Of weights that are trained on a cache; photographs whose digest it does not hold are left out."""
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
        """By name, for a file of weights or a checkpoint."""
        import torch

        return {name: torch.from_numpy(value) for name, value in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: "Mapping[str, Tensor] | None") -> "Provenance | None":
        """What `as_tensors` gave; None for anything else, as from files of earlier versions."""
        if tensors is None or tensors.keys() != {"digests", "patients", "roles"}:
            return None
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()})

    def after(self, earlier: "Provenance | None") -> "Provenance":
        """Of weights that went on from others: both have left their traces."""
        if earlier is None:
            return self
        patients = np.concatenate([self.patients, earlier.patients + len(self.patients)])  # a number each
        return self._sorted(
            np.concatenate([self.digests, earlier.digests]), patients, np.concatenate([self.roles, earlier.roles])
        )

    def exposure(self, cache: Cache, split: str) -> Exposure:
        """What the weights have met of a cache's split. A patient counts with all photographs that the cache has."""
        grades, patients = cache.grades, _patients(cache)
        measured = cache.rows(split)
        measured = measured[grades[measured] != UNKNOWN]
        (rows,) = np.nonzero(np.isin(patients, patients[measured]))
        met = pd.DataFrame({"digest": self.digests, "patient": self.patients, "role": self.roles})
        met["worst"] = met.groupby("patient")["role"].transform("min")
        known = met.groupby("digest")[["role", "worst"]].min()
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
    """(rows,) a number for each patient."""
    return pd.factorize(patients_of(cache.manifest, cache.manifest["id"]))[0].astype(np.int64)
