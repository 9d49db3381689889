"""Ensembles of runs: which runs can be combined, their weights as one network, and its decision rule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.folds import folded_rows
from pipeline.errors import CacheError, RunError
from pipeline.storage.url import Url, path_or_url
from trainer.config import FitConfig, RunConfig
from trainer.evaluation.metrics import predictions_table
from trainer.inference.forward import Outputs, run_split
from trainer.kinds import FELLOWS, PROBABILITIES, SCORE
from trainer.network.decision import DecisionRule
from trainer.network.ensemble import Ensemble
from trainer.network.metadata import FittedRule, Member, Metadata, read_metadata, temperature_of
from trainer.network.model import Grader, load_model, read_provenance
from trainer.network.provenance import Provenance
from trainer.run_folder import FoldsFolder, RunFolder

FEWEST: Final = 2
ALONE: Final = tuple(f"alone_{name}" for name in PROBABILITIES)
"""Columns of probabilities without the fellow eye."""


@dataclass(frozen=True)
class Members:
    """The runs that make an ensemble."""

    runs: Sequence[RunFolder]
    configs: Sequence[RunConfig]
    metadata: Sequence[Metadata]
    provenances: Sequence[Provenance | None]
    """None for one whose weights do not say which photographs they were trained on."""
    folds: FoldsFolder | None
    """The folder of `trainer folds` that they are in; None for runs on one cache."""

    @property
    def paths(self) -> list[str]:
        return [str(run.path.resolve()) for run in self.runs]


def find_members(paths: Sequence[Path]) -> Members:
    """The runs at these paths. Raises RunError where they are too few, unfinished, or twice the same."""
    folds = next((FoldsFolder(path) for path in paths if FoldsFolder(path).mark.exists()), None)
    if folds and len(paths) > 1:
        raise RunError(f"{folds.path} was made by `trainer folds`: give only this folder; all its runs are members")
    runs = folds.runs() if folds else [RunFolder(path) for path in paths]
    if len(runs) < FEWEST:
        raise RunError(f"{runs[0].path} is one run; an ensemble needs {FEWEST} or more")
    if folds and (missing := next((run for run in runs if not run.finished), None)):
        raise RunError(f"{missing.path} is missing or unfinished; run the same `trainer folds` command to continue")
    configs = [run.read_config() for run in runs]
    for run in runs:
        if not run.finished:
            raise RunError(f"{run.path} is unfinished; {run.resume_command} continues it")
    metadata = [read_metadata(run.model) for run in runs]
    members = Members(runs, configs, metadata, [read_provenance(run.model) for run in runs], folds)
    for run, each, path in zip(runs, metadata, members.paths, strict=True):
        if each.members:
            raise RunError(f"{run.path} is an ensemble itself; give its members")
        if members.paths.count(path) > 1:
            raise RunError(f"{run.path} is given twice")
        if each.operating is None:
            raise RunError(f"{run.path} has no operating point, so its probabilities are not calibrated; leave it out")
    return members


def check_apart(out: Path, members: Members) -> None:
    """Raises RunError if OUT is inside a member, with which it would be deleted."""
    for run in members.runs:
        if out.resolve().is_relative_to(run.path.resolve()):
            raise RunError(f"{out} is inside {run.path}, one of the members; choose another OUT")


def check_alike(members: Members) -> None:
    """Raises RunError where members take different images, or predict grades in different ways."""
    first, first_config = members.metadata[0], members.configs[0].resolved
    for run, each, config in zip(members.runs, members.metadata, members.configs, strict=True):
        alike = {
            **{
                f"--{name} of `tools preprocess`": (value, each.recipe.as_dict()[name])
                for name, value in first.recipe.as_dict().items()
            },
            "the image size": (f"{first.size} px", f"{each.size} px"),
            "--tta": ("on" if first.tta else "off", "on" if each.tta else "off"),
            "--fellow-eye": ("with" if first.fellow else "without", "with" if each.fellow else "without"),
            "--grade-by": (first_config.grade_by, config.resolved.grade_by),
        }
        for what, (ours, theirs) in alike.items():
            if ours != theirs:
                raise RunError(
                    f"{members.runs[0].path} and {run.path} cannot be combined: {what} differs ({ours}, {theirs})"
                )
        if not members.folds and config.cache_digest != members.configs[0].cache_digest:
            raise RunError(
                f"{members.runs[0].path} and {run.path} cannot be combined: their caches differ. Give runs on "
                "one cache, or the folder of `trainer folds`"
            )


def open_their_cache(members: Members, path: Path | Url | None) -> Cache:
    """The members' cache, or the one that their folds were made from. Raises CacheError where it is another."""
    if members.folds:
        digest, where = members.folds.read_mark().cache, path or path_or_url(FitConfig().cache)
        what = "the cache that the folds were made from; name that one with --cache"
    else:
        digest, where = members.configs[0].cache_digest, path or path_or_url(members.configs[0].cache)
        what = "the cache that the runs were trained on; if that was moved, name it with --cache"
    cache = open_cache(where)
    if cache.digest != digest:
        raise CacheError(f"{cache.path} is not {what}")
    return cache


def measured_splits(members: Members) -> Sequence[str]:
    """The splits that no member was trained on: val and test, or of folds test if it was not folded."""
    if not members.folds:
        return ("val", "test")
    return () if members.folds.read_mark().test else ("test",)


def check_not_trained_on(members: Members, cache: Cache, split: str) -> None:
    """Raises RunError where a member was trained on photographs of a split that is measured. One that began with the
    weights of another run may have been."""
    for run, provenance in zip(members.runs, members.provenances, strict=True):
        if provenance and (same := provenance.exposure(cache, split).same):
            raise RunError(f"{run.path} was trained on {same:,} photographs of {split}; leave it out")


def trained_rows(members: Members, cache: Cache) -> NDArray[np.int64]:
    """(n,) rows of the photographs that members were trained on. Of folds these are all that were folded."""
    if members.folds:
        return folded_rows(cache.manifest, with_test=members.folds.read_mark().test)
    return cache.rows("train")


def load_members(members: Members) -> Ensemble:
    temperatures = [temperature_of(each.operating) for each in members.metadata]
    paired = [_fellow_temperature(each) for each in members.metadata]
    return Ensemble([load_model(run.model)[0] for run in members.runs], temperatures, paired).eval()


def describe_members(members: Members) -> Metadata:
    """The metadata of the ensemble, without a decision rule."""
    first = members.metadata[0]
    listed = tuple(
        Member(each.model, each.epoch, each.link, each.stem, temperature_of(each.operating), _fellow_temperature(each))
        for each in members.metadata
    )
    fellow = FittedRule() if first.fellow else None
    stem = first.stem if all(each.stem == first.stem for each in members.metadata) else "imagenet"
    plugs = {each.function: each for metadata in members.metadata for each in metadata.plugs if each.option == "model"}
    return Metadata(
        first.model,
        first.size,
        first.recipe,
        epoch=0,
        link="softmax",
        stem=stem,
        tta=first.tta,
        members=listed,
        fellow=fellow,
        plugs=tuple(plugs.values()),
    )


def _fellow_temperature(member: Metadata) -> float | None:
    """The member's temperature for photographs with their fellow eye; None if it takes one eye."""
    rule = DecisionRule.of(member).fellow
    return rule.temperature if rule else None


def last_trained(members: Members) -> str | None:
    """The day on which the last member was trained, as YYYY-MM-DD; None if one of them does not say."""
    days = [run.read_dates().get("trained") for run in members.runs]
    known = [day for day in days if day]
    return max(known) if len(known) == len(days) else None


def joint_provenance(members: Members) -> Provenance | None:
    """The photographs of all members; None if one of them does not say which these are."""
    known = [each for each in members.provenances if each]
    return reduce(lambda one, other: one.after(other), known) if len(known) == len(members.provenances) else None


def out_of_fold(members: Members, cache: Cache, config: FitConfig, model: Ensemble) -> Outputs:
    """Outputs for the folded photographs, by the members that were not trained on them: the mean over seeds.

    config, model: of the ensemble, on its device. They run over the photographs only if the members take the fellow
    eye, because their predictions without it are in no file.
    """
    assert members.folds is not None
    numbers = range(len(members.runs))
    table = pd.concat([_out_of_fold_of(members, number, config, model) for number in numbers])
    with_test = bool(members.folds.read_mark().test)
    folded = cache.manifest["id"].iloc[folded_rows(cache.manifest, with_test=with_test)]
    times = table["id"].value_counts().reindex(folded).fillna(0)
    if (times != times.max()).any() or len(times) != table["id"].nunique():
        raise RunError(
            f"{members.folds.path}: predictions of {(times != times.max()).sum():,} folded photographs are missing; "
            "`trainer evaluate FOLD --split test` writes those of a fold"
        )
    means = table.drop(columns=["predicted", SCORE], errors="ignore").groupby("id", sort=False).mean()

    def logits(columns: Sequence[str]) -> Tensor:
        p = means[list(columns)].to_numpy(np.float64)
        return torch.from_numpy(np.log(np.maximum(p, np.finfo(np.float32).tiny)))

    outputs = Outputs(
        cache.rows_of(means.index.to_series()),
        torch.from_numpy(means["grade"].to_numpy(np.int64)),
        logits(PROBABILITIES),
    )
    if FELLOWS not in means:
        return outputs
    return outputs._replace(alone=logits(ALONE), fellows=means[FELLOWS].to_numpy(np.int64))


def _out_of_fold_of(members: Members, number: int, config: FitConfig, model: Ensemble) -> pd.DataFrame:
    """The predictions of a fold's run for its test part; with the columns ALONE if it takes the fellow eye."""
    run, metadata = members.runs[number], members.metadata[number]
    if not metadata.fellow:
        return run.read_predictions("test")
    cache, member = open_cache(path_or_url(members.configs[number].cache)), model.members[number]
    assert isinstance(member, Grader)
    outputs = run_split(replace(config, together=cache.shuffle_block), member, cache, "test")
    assert outputs.alone is not None
    rule = DecisionRule.of(metadata)
    joined = rule.probabilities(outputs.logits.double().numpy(), outputs.paired)
    alone = rule.probabilities(outputs.alone.double().numpy())
    ids = cache.manifest["id"].iloc[outputs.rows]
    table = predictions_table(ids, outputs.grades.numpy(), joined)
    return table.assign(**dict(zip(ALONE, alone.T, strict=True)), **{FELLOWS: outputs.fellows})
