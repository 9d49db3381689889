"""Sets up a training: resolves the settings for the cache, and makes or restores the model."""

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache.cache import Cache
from pipeline.cache.eyes import fellow_eyes
from pipeline.cache.manifest import flagged
from pipeline.errors import CacheError, RunError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.loading.batch import Loader
from pipeline.loading.loaders import check_loader, choose_loader
from pipeline.storage.url import Url
from trainer.config import SMALL_BELOW, FitConfig, RunConfig, as_options
from trainer.distributed.loaders import batch_per_rank
from trainer.distributed.process_group import from_main, is_main, same_state, world_size
from trainer.distributed.sync_batchnorm import synchronise
from trainer.fellow_run import SAME, fellow_defaults
from trainer.network.device import choose_device, choose_precision, to_device
from trainer.network.model import Grader, load_state
from trainer.network.pretrained import pretrain
from trainer.plugs import Plug, is_plug
from trainer.run_folder import FoldsFolder, RunFolder, write_json
from trainer.training.checkpoint import Progress, newest_checkpoint
from trainer.training.learner import Learner
from trainer.training.losses import class_weights
from trainer.training.progressive_resizing import start_pixels
from trainer.training.trial import try_plugs


def check_trainable(cache: Cache) -> None:
    """Raises CacheError if train or val is empty or has photographs without a grade."""
    for split, purpose in (("train", "to train on"), ("val", "to choose by")):
        rows = cache.rows(split)
        if not len(rows):
            raise CacheError(
                f"{cache.path} has no {split} photographs {purpose}; `tools preprocess` splits graded ones"
            )
        ungraded = rows[cache.grades[rows] == UNKNOWN]
        if len(ungraded):
            first = cache.manifest["id"].iloc[ungraded[0]]
            raise CacheError(
                f"{cache.path}: {len(ungraded)} of {len(rows)} {split} photographs have no grade, {first} first"
            )


def check_same(cache: Cache) -> None:
    """Raises CacheError if this rank's cache differs from that of rank 0, which may be on another machine."""
    if from_main(lambda: cache.digest) != cache.digest:
        raise CacheError(f"{cache.path} on {platform.node()} is not as rank 0 has it; copy that one")


def check_fellow_run(asked: FitConfig, cache: Cache) -> None:
    """Raises RunError if the run of --fellow-eye does not fit the settings or the cache, or if eyes are not known."""
    assert asked.fellow_eye is not None
    if FoldsFolder(Path(asked.fellow_eye)).mark.exists():
        raise RunError(f"{asked.fellow_eye} was made by `trainer folds`; `trainer folds --fellow-eye` takes it")
    run = RunFolder(Path(asked.fellow_eye))
    config, wanted = run.read_config(), fellow_defaults(run)
    for name in SAME:
        if getattr(asked, name) != wanted[name]:
            raise RunError(
                f"--fellow-eye {run.path}: {name} is {wanted[name]} there; leave out {as_options(name, '')[0]}"
            )
    if cache.digest != config.cache_digest:
        raise RunError(f"{cache.path} is not the cache that {run.path} was trained on; give that one with --cache")
    for split in ("train", "val"):
        if not len(fellow_eyes(cache, split).rows):
            raise RunError(
                f"{cache.path}: no photograph of {split} has one of the patient's other eye. `tools preprocess` reads "
                "the eye from names such as 17_left, or from --eye-column"
            )


def check_processes(config: FitConfig) -> None:
    """Raises RunError if these settings do not work with this number of processes."""
    batch_per_rank(config.batch)
    if config.compile and world_size() > 1:
        raise RunError("--compile is for one process; leave it out")


def resolve(asked: FitConfig, cache: Cache) -> tuple[FitConfig, Grader]:
    """The settings with every "auto" replaced, and the initial model with its weights.

    The weights come last because they may have to be downloaded. Settings that cannot be trained are refused before.
    """
    device = choose_device(asked.device)
    loader = choose_loader(asked.loader, device)
    size = asked.size or cache.recipe.size
    check_loader(loader, cache, size=size, device=device)
    check_processes(asked)
    try:
        config = replace(
            asked,
            device=device,
            loader=loader,
            precision=choose_precision(asked.precision, device),
            size=size,
            start_size=start_pixels(asked.start_size, size) if asked.epochs else None,
            together=cache.shuffle_block,
        )
        model, weights = make_model(asked, size)
        head_epochs = 0 if weights == "none" else asked.head_epochs
        config = replace(config, stem=model.stem, weights=weights, head_epochs=head_epochs)
    except ValueError as error:  # --start-size above the cache's size; or --weights auto --epochs 0 without weights
        raise RunError(str(error)) from error
    try_plugs(config, model)
    return config, model


def make_model(asked: FitConfig, size: int) -> tuple[Grader, str]:
    """The initial model, and the name of its weights as `pretrain` returns it. Resolves "auto" of stem and weights."""
    torch.manual_seed(asked.seed)
    if asked.fellow_eye:
        model = empty_model(asked)
        return model, pretrain(model, asked.weights)
    if asked.stem == "small":
        model = Grader(asked.model, asked.link, "small")
        return model, pretrain(model, "none" if asked.weights == "auto" else asked.weights)  # ImageNet's do not fit it
    model = Grader(asked.model, asked.link, "imagenet" if asked.stem == "auto" else asked.stem)
    weights = pretrain(model, asked.weights)
    if asked.stem == "auto" and weights == "none" and size < SMALL_BELOW and not is_plug(asked.model):
        torch.manual_seed(asked.seed)
        model = Grader(asked.model, asked.link, "small")
    return model, weights


def empty_model(config: FitConfig) -> Grader:
    """The network of a resolved config, with weights that are yet to be loaded."""
    return Grader(config.model, config.link, config.stem, fellow=config.fellow_eye is not None)


def describe(asked: FitConfig, config: FitConfig, cache: Cache, plugs: Sequence[Plug] = ()) -> RunConfig:
    """The contents of config.json. config: `asked`, resolved."""
    packages = ("fundus-grading", "torch", "torchvision", "numpy", "pillow", "opencv-python-headless")
    if isinstance(cache.path, Url):  # without its secrets, if it has any
        asked, config = (replace(each, cache=str(cache.path)) for each in (asked, config))
    drawn = flagged(cache.manifest, "synthetic").to_numpy()
    return RunConfig(
        asked,
        config,
        cache=str(cache.path if isinstance(cache.path, Url) else cache.path.resolve()),
        cache_digest=cache.digest,
        recipe=cache.recipe.as_dict(),
        photographs={split: len(cache.rows(split)) for split in ("train", "val", "test")},
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
        data_set=cache.index.data_set,
        synthetic={split: int(drawn[cache.rows(split)].sum()) for split in ("train", "val", "test")},
        plugs=list(plugs),
    )


def begin(run: RunFolder, config: RunConfig) -> None:
    """Writes config.json, which makes a folder a run. If that fails, removes the empty folder and raises RunError."""
    try:
        write_json(run.config, config.as_dict())
    except OSError as error:
        with suppress(OSError):
            run.path.rmdir()
        raise RunError(f"{run.path}: cannot be written ({error.strerror}); choose another --run") from error


def restore(config: FitConfig, run: RunFolder) -> tuple[Grader, Progress, Mapping[str, Any] | None]:
    """The model of a resumed run on the CPU, its progress, and its checkpoint.

    Without a checkpoint: the initial model, no progress, and None. With several ranks, rank 0 reads.
    """
    torch.manual_seed(config.seed)
    model = empty_model(config)
    progress, checkpoint = from_main(lambda: newest_checkpoint(run)) or (Progress(), None)
    progress.steps = [row.to(config.device) for row in progress.steps]
    if checkpoint:
        load_state(model, checkpoint["model"], f"checkpoint of {run.path}")
    elif is_main():
        pretrain(model, config.weights)
    same_state(model)
    if is_main():
        try_plugs(config, model)
    return model, progress, checkpoint


def training_grades(cache: Cache) -> NDArray[np.int64]:
    """(5,) int64, the number of train photographs by grade."""
    return np.bincount(cache.grades[cache.rows("train")], minlength=N_GRADES)


def make_learner(config: FitConfig, cache: Cache, loaders: Mapping[str, Loader], model: Grader) -> Learner:
    """Moves the model to its device and makes a learner with the class weights."""
    device = torch.device(config.device)
    to_device(model, device)
    synchronise(model, device)
    weights = class_weights(config.class_weights, training_grades(cache))
    return Learner(config, cache, loaders, model, torch.tensor(weights, dtype=torch.float32, device=device))
