"""Trains a run to its end, and measures the weights that are kept."""

import functools
from collections.abc import Iterable, Iterator, Mapping
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
from trainer.network.metadata import Metadata, read_metadata
from trainer.network.model import Grader, load_model, read_provenance, save_model
from trainer.network.provenance import Provenance
from trainer.run_folder import RunFolder
from trainer.training.checkpoint import Progress
from trainer.training.learner import Learner
from trainer.training.loop import RunWriter, fit
from trainer.training.signals import Stopper


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run under way: by which settings, on what, and from where it goes on."""

    config: FitConfig
    """Resolved."""
    cache: Cache
    run: RunFolder
    model: Grader
    """As it stands, on the CPU."""
    loaders: Mapping[str, Loader]
    """Of photographs, by split."""
    progress: Progress = field(default_factory=Progress)
    checkpoint: Mapping[str, Any] | None = None
    """The one that model and progress come from; None where the run begins."""


def train(training: Training, learner: Learner, stopper: Stopper) -> None:
    """Trains what is left of a run. Its weights will say what the photographs look like and which they have met.

    Raises as `fit` does.
    """
    config, cache, checkpoint = training.config, training.cache, training.checkpoint
    size = config.size or cache.recipe.size
    statistics = training_statistics(cache, size, config.workers) if is_main() else None
    metadata = Metadata(
        config.model,
        size,
        cache.recipe,
        epoch=0,
        link=config.link,
        stem=config.stem,
        tta=config.tta,
        statistics=statistics,
    )
    cache.note_sources()
    if checkpoint:  # resumed: the weights that it began with may be gone by now
        earlier = Provenance.from_tensors(checkpoint.get("earlier"))
    else:
        earlier = earlier_provenance(config.weights) if is_main() else None
    provenance = functools.cache(lambda: Provenance.of_cache(cache).after(earlier))
    kept = {"earlier": earlier.as_tensors()} if earlier else {}
    fit(learner, training.progress, stopper, RunWriter(training.run, metadata, provenance, kept), checkpoint)


def earlier_provenance(weights: str) -> Provenance | None:
    """Of the weights that a run begins with, where they are ours; `weights` as resolved in config.json."""
    return read_provenance(Path(weights)) if weights.endswith(".safetensors") else None


def measure_kept(config: FitConfig, cache: Cache, run: RunFolder, splits: Iterable[str]) -> Iterator[Evaluation]:
    """The weights kept, measured on splits that are measurable; on val first, where how to read them is chosen and
    written into them. Of several ranks all run them, and only rank 0 measures.

    What is chosen depends on the weights alone, so a run killed here chooses the same when it is resumed.
    """
    model = load_model(run.model)[0] if is_main() else Grader(config.model, config.link, config.stem)
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
