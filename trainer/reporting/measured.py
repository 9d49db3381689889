"""Reads and checks the results of a run for a report."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError, RunError
from pipeline.storage.url import Url
from trainer.config import RunConfig
from trainer.evaluation.metrics import graded
from trainer.evaluation.record import MetricsRecord
from trainer.evaluation.referable import Referable
from trainer.evaluation.results import Results
from trainer.network.metadata import Metadata
from trainer.network.model import Network, load_model
from trainer.reporting.external import Site, read_sites
from trainer.run_folder import RunFolder

logger = logging.getLogger(__name__)

REPORTED: Final = frozenset({"deferral", "calibration", "referable", "patient", "no_image", "cache"})
"""Keys of metrics_*.json that a report needs and earlier versions did not write."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that a report needs about a measured split of a run."""

    run: RunFolder
    split: str
    config: RunConfig
    model: Network
    metadata: Metadata
    history: pd.DataFrame | None
    """accuracy.csv; None for an ensemble."""
    record: MetricsRecord
    predictions: pd.DataFrame
    """Of the graded photographs."""
    ungraded: int
    """Number of photographs without a grade, which are not in `predictions`."""
    sites: Sequence[Site]
    """The run's own test part, then the external sets; empty without external sets."""
    cache: Cache | None
    """The cache that was measured; None if it is not available."""
    absent: str
    """Why there is no cache; "" if there is one."""

    @property
    def name(self) -> str:
        return self.run.title

    @property
    def results(self) -> Results:
        return self.record.results

    @property
    def referable(self) -> Referable:
        """The results for referable retinopathy by photograph; `read_measured` checks that they are there."""
        assert self.results.referable is not None
        return self.results.referable


def read_measured(run: RunFolder, split: str, cache_path: Path | Url | None) -> Measured:
    """The results of a split. cache_path: where the cache is now; None: where it was during training.

    Raises RunError if the split has not been measured, or a file of the run is missing or damaged; CacheError if
    `cache_path` is given and is not the cache that was measured.
    """
    config = run.read_config()
    again = f"`trainer evaluate {run.path} --split {split}` measures it"
    if not run.metrics(split).exists() or not run.predictions(split).exists():
        raise RunError(f"{run.path} has no predictions for {split}; {again}")
    written = run.read_own_metrics(split)
    predictions = run.read_predictions(split)
    known = graded(predictions).reset_index(drop=True)
    try:
        record = MetricsRecord.from_dict(written)
        if not written.keys() >= REPORTED or record.results.referable is None:
            raise ValueError("of an earlier version")
    except ValueError as error:
        raise RunError(f"{run.metrics(split)} is damaged or of an earlier version; {again} again") from error
    if record.results.metrics.photographs != len(known):
        raise RunError(f"{run.metrics(split)} and {run.predictions(split).name} are of different photographs; {again}")
    model, metadata = load_model(run.model)
    cache, absent = measured_cache(run, config, cache_path)
    return Measured(
        run=run,
        split=split,
        config=config,
        model=model,
        metadata=metadata,
        history=None if config.members else run.read_accuracy(),
        record=record,
        predictions=known,
        ungraded=len(predictions) - len(known),
        sites=read_sites(run),
        cache=cache,
        absent=absent,
    )


def measured_cache(run: RunFolder, config: RunConfig, path: Path | Url | None) -> tuple[Cache | None, str]:
    """The cache that was measured and "", or None and the reason.

    Raises CacheError if `path` is given and cannot be opened or is another cache.
    """
    advice = f"`trainer report {run.path} --cache FOLDER` takes the cache that was measured"
    try:
        cache = open_cache(path or config.cache)
        if cache.digest != config.cache_digest:
            raise CacheError(f"{cache.path} is not the cache that was measured (its digest differs)")
    except CacheError as error:
        if path:
            raise
        logger.warning(f"no photographs, subgroups and splits: {error.message}; {advice}")
        return None, f"Left out, for the cache is not at hand ({error.message})."
    return cache, ""
