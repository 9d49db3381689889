"""`--fellow-eye RUN`: the settings that a second stage, which takes the fellow eye into account, has from its run."""

import os
from pathlib import Path
from typing import Any, Final

import click

from pipeline.errors import RunError
from trainer.presets import FELLOW_DEFAULTS
from trainer.run_folder import FOLDED, FoldsFolder, RunFolder

KEPT: Final = (
    "augment", "batch", "class_weights", "colour", "grade_by", "label_smoothing", "loss", "model", "precision",
    "sampling", "seed", "size", "stem", "tta", "zoom",
)  # fmt: skip
"""Settings that are the run's own, as resolved, where none are given."""
SAME: Final = ("model", "stem", "loss", "size", "weights")
"""Those that must be the run's own, because they make its network."""


class FellowRun(click.ParamType[str]):
    """A run, or a folder of `trainer folds`. Its settings become defaults of the command's options."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        assert ctx is not None
        path = Path(value)
        of_folds = os.path.exists(FoldsFolder(path).mark)  # Path.exists raises OSError if a name is too long
        if of_folds and all(each.name != "count" for each in ctx.command.params):
            self.fail(f"{path} was made by `trainer folds`; `trainer folds --fellow-eye` takes it", param, ctx)
        try:
            found = folds_defaults(path) if of_folds else fellow_defaults(RunFolder(path))
        except RunError as error:
            self.fail(error.message, param, ctx)
        ctx.default_map = {**found, **(ctx.default_map or {})}
        return str(path.resolve())


def folds_defaults(path: Path) -> dict[str, Any]:
    """As `fellow_defaults`, for the folds in a folder. They are drawn as those were; each has its own weights. Where
    the cache is that they were made from is not recorded."""
    folds = FoldsFolder(path)
    mark = folds.read_mark()
    found = fellow_defaults(folds.runs()[0])
    del found["cache"]  # it is that of one fold
    drawn = {"count": mark.folds, "seed": mark.seed, "split": FOLDED[mark.test]}
    return {**found, **drawn, **({"seeds": tuple(mark.seeds)} if mark.seeds else {})}


def fellow_defaults(run: RunFolder) -> dict[str, Any]:
    """The defaults of a training with both eyes that starts from a run. Raises RunError if it is no finished run of
    one network that takes one eye."""
    config = run.read_config()
    if config.members:
        raise RunError(
            f"{run.path} is an ensemble; give each of its runs to --fellow-eye, and make an ensemble of the new runs"
        )
    if config.resolved.fellow_eye:
        raise RunError(f"{run.path} takes the fellow eye already; give the run that it began with")
    if not run.finished:
        raise RunError(f"{run.path} is unfinished; {run.resume_command} continues it")
    settings = {name: getattr(config.resolved, name) for name in KEPT}
    own = {"cache": config.cache, "weights": str(run.model.resolve()), "loader": config.asked.loader}
    return {**settings, **own, "device": config.asked.device, **FELLOW_DEFAULTS}
