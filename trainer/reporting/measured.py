"""Reads and checks a run's results for a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError, RunError
from pipeline.storage.url import Url
from trainer.config import RunConfig
from trainer.console import warn
from trainer.evaluation.metrics import Metrics, graded
from trainer.network.metadata import Metadata, Operating
from trainer.network.model import Network, load_model
from trainer.reporting.external import Site, read_sites
from trainer.run_folder import RunFolder


@dataclass(frozen=True)
class Measured:
    """All that a run says of a split."""

    run: RunFolder
    split: str
    config: RunConfig
    model: Network
    metadata: Metadata
    history: pd.DataFrame | None
    """accuracy.csv; None for an ensemble, which has none."""
    metrics: Mapping[str, Any]
    predictions: pd.DataFrame
    """Of the graded photographs."""
    ungraded: int
    sites: Sequence[Site]
    """External sets, and before them the run's own test part; empty without external sets."""
    cache: Cache | None
    """The one that was measured; None where it is not at hand."""
    absent: str
    """Why not; "" where it is."""

    @property
    def name(self) -> str:
        return self.run.title

    @property
    def operating(self) -> Operating | None:
        """The operating point that was measured, which may be another than the weights carry."""
        card = self.metrics["operating"]
        if card is None:
            return None
        temperature = self.metrics["calibration"]["temperature"]
        return Operating(temperature, card["threshold"], card["wanted"], card["level"])


def read_measured(run: RunFolder, split: str, cache_path: Path | Url | None) -> Measured:
    """Raises RunError where the split has not been measured, or a file of the run is missing or damaged; CacheError
    where `cache_path` is given and is not the cache that was measured."""
    config = run.read_config()
    again = f"`trainer evaluate {run.path} --split {split}` measures it"
    if not run.metrics(split).exists() or not run.predictions(split).exists():
        raise RunError(f"{run.path} has no predictions for {split}; {again}")
    metrics = run.read_own_metrics(split)
    predictions = run.read_predictions(split)
    known = graded(predictions).reset_index(drop=True)
    parts = {"intervals", "operating", "deferral", "calibration", "referable", "patient", "no_image", "cache"}
    if not metrics.keys() >= parts | {each.name for each in fields(Metrics)}:
        raise RunError(f"{run.metrics(split)} is damaged or of an earlier version; {again} again")
    if metrics["photographs"] != len(known):
        raise RunError(f"{run.metrics(split)} and {run.predictions(split).name} are of different photographs; {again}")
    model, metadata = load_model(run.model)
    cache, absent = measured_cache(run, config, cache_path)
    history = None if config.members else run.read_accuracy()
    ungraded, sites = len(predictions) - len(known), read_sites(run)
    return Measured(run, split, config, model, metadata, history, metrics, known, ungraded, sites, cache, absent)


def measured_cache(run: RunFolder, config: RunConfig, path: Path | Url | None) -> tuple[Cache | None, str]:
    """The run's own cache, which was measured, or None and why. A cache that the user named must be the one."""
    advice = f"`trainer report {run.path} --cache FOLDER` takes the cache that was measured"
    try:
        cache = open_cache(path or config.cache)
        if cache.digest != config.cache_digest:
            raise CacheError(f"{cache.path} is not the cache that was measured (its digest differs)")
    except CacheError as error:
        if path:
            raise
        warn(f"no photographs, subgroups and splits: {error.message}; {advice}")
        return None, f"Left out, for the cache is not at hand ({error.message})."
    return cache, ""
