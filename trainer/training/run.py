"""Trains a run to its end and measures its kept weights."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cache.cache import Cache
from pipeline.loading.batch import Loader
from trainer.config import FitConfig
from trainer.distributed.process_group import is_main, same_state
from trainer.evaluation.evaluate import Evaluation, choose_decision, exposure_on, measure_outputs
from trainer.inference.forward import run_split
from trainer.inference.inputs import training_statistics
from trainer.network.device import to_device
from trainer.network.metadata import FittedRule, Metadata, read_metadata
from trainer.network.model import Grader, load_model, read_provenance, save_model
from trainer.network.provenance import Provenance
from trainer.run_folder import EpochRow, RunFolder
from trainer.training.checkpoint import Progress
from trainer.training.learner import Learner
from trainer.training.loop import RunWriter, fit
from trainer.training.setup import empty_model
from trainer.training.signals import Stopper
from trainer.training.trial import describe_plugs


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is set up: settings, data, model, and the state that it continues from."""

    config: FitConfig
    """Resolved settings."""
    cache: Cache
    run: RunFolder
    model: Grader
    """In its current state, on the CPU."""
    loaders: Mapping[str, Loader]
    """Loaders of photographs by split."""
    progress: Progress = field(default_factory=Progress)
    checkpoint: Mapping[str, Any] | None = None
    """The checkpoint that `model` and `progress` come from; None for a new run."""


def train(training: Training, learner: Learner, stopper: Stopper, on_epoch: Callable[[EpochRow], None]) -> bool:
    """Trains the rest of a run. The weights carry image statistics of the training photographs and their provenance.

    Returns whether it stopped early. See `fit` for `on_epoch` and the errors.
    """
    config, cache, checkpoint = training.config, training.cache, training.checkpoint
    size = config.size or cache.recipe.size
    statistics = training_statistics(cache, cache.rows("train"), size, config.workers) if is_main() else None
    metadata = Metadata(
        config.model,
        size,
        cache.recipe,
        epoch=0,
        link=config.link,
        stem=config.stem,
        tta=config.tta,
        statistics=statistics,
        plugs=tuple(describe_plugs(config, training.model.backbone)),
        fellow=FittedRule() if config.fellow_eye else None,
    )
    cache.note_sources()
    if checkpoint:  # the file of the initial weights may have been deleted since
        earlier = Provenance.from_tensors(checkpoint.get("earlier"))
    else:
        earlier = earlier_provenance(config.weights) if is_main() else None
    provenance = functools.cache(lambda: Provenance.of_cache(cache).after(earlier))
    kept = {"earlier": earlier.as_tensors()} if earlier else {}
    writer = RunWriter(training.run, metadata, provenance, kept)
    return fit(learner, training.progress, stopper, writer, on_epoch, checkpoint)


def earlier_provenance(weights: str) -> Provenance | None:
    """The provenance of the initial weights; None if they do not state it. weights: as resolved in config.json."""
    return read_provenance(Path(weights)) if weights.endswith(".safetensors") else None


def measure_kept(config: FitConfig, cache: Cache, run: RunFolder, splits: Iterable[str]) -> Iterator[Evaluation]:
    """Evaluates the kept weights on splits, val first: its outputs give the decision rule, which is written into the
    weights. All ranks run the network, and only rank 0 measures.

    splits: measurable ones. The decision rule depends on the weights alone, so a run that is killed here and resumed
    chooses the same one.
    """
    model = load_model(run.model)[0] if is_main() else empty_model(config)
    same_state(model)
    to_device(model, config.device)
    provenance = read_provenance(run.model) if is_main() else None
    for split in splits:
        outputs = run_split(config, model, cache, split)
        if not is_main():
            continue
        metadata = read_metadata(run.model)
        if split == "val":
            metadata = choose_decision(cache, outputs, metadata, config.grade_by)
            save_model(run.model, model, metadata, provenance)
        yield measure_outputs(cache, split, outputs, metadata, exposure_on(provenance, cache, split, own=True))
