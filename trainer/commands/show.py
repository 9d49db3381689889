"""`trainer show`: prints what the header of a file of weights says. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import click

from pipeline.errors import RunError
from trainer.config import RunConfig
from trainer.console import print_table
from trainer.network.decision import DecisionRule
from trainer.network.image_statistics import QUANTILES
from trainer.network.metadata import Metadata, read_header, read_metadata
from trainer.run_folder import RunFolder, weights_file


class Size(NamedTuple):
    """The size of a network."""

    parameters: int
    """Trained ones."""
    layers: int
    """With weights: convolutions and the linear last one."""


@dataclass(frozen=True)
class Facts:
    """What is known of a file of weights."""

    file: Path
    nbytes: int
    sha256: str
    metadata: Metadata
    weights: Size
    run: RunConfig | None
    """None for a file outside a run folder."""

    @property
    def epochs(self) -> list[int]:
        """That the weights are from; of an ensemble, of each member."""
        return [each.epoch for each in self.metadata.members] or [self.metadata.epoch]

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "bytes": self.nbytes,
            "sha256": self.sha256,
            "title": self.metadata.title,
            "epochs": self.epochs,
            **self.metadata.as_dict(),
            "weights": self.weights._asdict(),
            "run": self.run and self.run.as_dict(),
        }


def show(path: Path, as_json: bool) -> None:
    """Prints facts about the weights of a run, or of a model.safetensors. Raises RunError if they cannot be read."""
    facts = collect(path)
    if as_json:
        click.echo(json.dumps(facts.as_dict(), indent=1))
        return
    metadata, weights, run = facts.metadata, facts.weights, facts.run
    rows = [
        ("file", str(facts.file)),
        ("bytes", f"{facts.nbytes:,}"),
        ("sha256", facts.sha256),
        ("model", f"{metadata.title}, {weights.parameters:,} parameters in {weights.layers} layers"),
        ("grades", ", ".join(f"{grade} {name}" for grade, name in enumerate(metadata.grades))),
        ("trained at", f"{metadata.size} px, epoch {', '.join(map(str, facts.epochs))}"),
        ("recipe", ", ".join(f"{name} {value}" for name, value in metadata.recipe.as_dict().items())),
    ]
    rows += [("code", f"--{each.option} {each.words}") for each in metadata.plugs]
    if metadata.tta:
        rows.append(("views", "8: measured and used as the mean over flips and right angles"))
    if metadata.ordinal_thresholds:
        thresholds = ", ".join(f"{threshold:g}" for threshold in metadata.ordinal_thresholds)
        rows.append(("predicted grade", f"the expected one, cut at {thresholds}, as chosen on validation"))
    if operating := metadata.operating:
        chosen = f"{operating.wanted} {operating.level:g} on validation"
        rows += [
            ("temperature", f"{operating.temperature:g}"),
            ("referable", f"from p_referable {operating.threshold:.4g} on, for a {chosen}"),
        ]
        if with_fellow := DecisionRule.of(metadata).fellow:
            decides = f"temperature {with_fellow.temperature:g}, referable from {with_fellow.threshold:.4g} on"
            if with_fellow.ordinal_thresholds:
                decides += f", cut at {', '.join(f'{threshold:g}' for threshold in with_fellow.ordinal_thresholds)}"
            rows.append(("with other eye", decides))
    else:
        rows.append(("operating point", "none: the run is unfinished, or validation lacks a class"))
    if run:
        photographs = ", ".join(f"{split} {count}" for split, count in run.photographs.items())
        rows += [
            ("cache", f"{run.cache}, {photographs}"),
            ("cache digest", run.cache_digest),
            ("pretrained", run.resolved.weights),
            ("versions", ", ".join(f"{name} {number}" for name, number in run.versions.items())),
        ]
    for name, value in rows:
        click.echo(f"{name:<17}{value}")
    if seen := metadata.statistics:
        click.echo(f"seen: {seen.photographs} training photographs, {seen.without_disc:.1%} without a disc")
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        print_table(["measure", *names], [(name, *map(str, cut)) for name, cut in seen.quantiles.items()])


def collect(path: Path) -> Facts:
    """Raises RunError where the weights cannot be read."""
    weights = weights_file(path)
    metadata = read_metadata(weights)
    shapes = {name: tensor["shape"] for name, tensor in read_header(weights).items() if name != "__metadata__"}
    try:
        with open(weights, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256")
        nbytes = weights.stat().st_size
    except OSError as error:
        raise RunError(f"{weights}: cannot be read ({error.strerror})") from error
    run = RunFolder(weights.parent)
    config = run.read_config() if run.started and weights == run.model else None
    return Facts(weights, nbytes, sha256.hexdigest(), metadata, count(shapes), config)


def count(shapes: Mapping[str, Sequence[int]]) -> Size:
    """Of a network whose tensors have these shapes, by name."""
    trained = {name: shape for name, shape in shapes.items() if name.endswith((".weight", ".bias"))}
    parameters = sum(prod(shape) for shape in trained.values())
    return Size(parameters, layers=sum(len(shape) > 1 for shape in trained.values()))
