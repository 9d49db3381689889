"""The GPU tables of docs/benchmarks.md, written from the stages' JSON files and from nothing else."""

import json
from pathlib import Path
from typing import Any, Final

import click
from measuring import FULL
from workloads import NETWORKS, fed_row, loader_row, nvjpeg_row, step_row

from tools.benchmark.workloads import DECODE, PLAIN

BEGIN: Final = "<!-- written by `python benchmarks/gpu.py page`, not by hand -->"
END: Final = "<!-- until here -->"
NOT_YET: Final = "not measured yet"
LARGE, SMALL = FULL.large, FULL.small

_DECODERS: Final = ("torchvision", "nvimgcodec")
_ENGINES: Final = ("nvimgcodec, the hardware engine only", "nvimgcodec, CUDA kernels only")
_CACHED: Final = ((LARGE, LARGE), (SMALL, SMALL), (SMALL, LARGE))
_LOADERS: Final = ("dali", "torchvision")
_SETTINGS: Final = [(network, size) for network in NETWORKS for size in (LARGE, SMALL)]

ROWS: Final[list[tuple[str, str]]] = [
    *(("dali", nvjpeg_row(by, LARGE, colours)) for colours in ("4:4:4", "4:2:0") for by in _DECODERS),
    *(("dali", nvjpeg_row(by, LARGE)) for by in _ENGINES),
    ("dali", f"DALI's decoder alone, {LARGE} px"),
    ("torchvision", DECODE),
    ("dali", PLAIN),
    ("dali", f"DALI's own reader with fn.rotate, {LARGE} px"),
    *((loader, loader_row(loader, size, cached)) for loader in _LOADERS for size, cached in _CACHED),
    *(("steps", step_row(network, size)) for network, size in _SETTINGS),
    *(("compile", step_row(network, size, compiled=True)) for network, size in _SETTINGS),
    *(("dali", fed_row(loader, network, size)) for network, size in _SETTINGS for loader in _LOADERS),
    *(("fits", f"fit, --loader {loader}") for loader in _LOADERS),
]
"""(stage, row) in the order of the page."""

_BOUND: Final = "the smaller of the step alone and nvJPEG alone"

WANTED: Final[list[tuple[str, str, str]]] = [
    ("dali", f"{loader_row('dali', LARGE, LARGE)} / nvJPEG alone", "at least 0.9"),
    ("dali", f"{loader_row('dali', LARGE, LARGE)} / {PLAIN}", "at least 5"),
    *(("dali", f"{fed_row('dali', network, size)} / {_BOUND}", "at least 0.95") for network, size in _SETTINGS),
    ("fits", "loss of the first epoch, one loader against the other, relative", "at most 0.02"),
]
"""(stage, what, bound)."""


def fill(path: Path, out: Path, *, small: bool) -> str:
    """Writes the page's part between its two marks, and says how much was measured.

    small: take files of a trial, which are refused otherwise. Raises ClickException where the page has no marks or a
    file is of a trial.
    """
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise click.ClickException(f"{path} has no place for the tables: {BEGIN} and {END}, once each")
    stages = read(out, small=small)
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{tables(stages)}\n\n{END}{after}")
    measured = sum(row in stages.get(stage, {}).get("rows", {}) for stage, row in ROWS)
    return f"{path}: {measured} of {len(ROWS)} rows measured"


def read(out: Path, *, small: bool) -> dict[str, dict[str, Any]]:
    """The stages' files by stage."""
    found = {}
    for path in sorted(out.glob("*.json")):
        fields = json.loads(path.read_text())
        if fields["small"] and not small:
            raise click.ClickException(f"{path} is of a trial with --small; its figures say nothing")
        found[fields["stage"]] = fields
    return found


def tables(stages: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [said(stages), "", "| | images/s | least - most | memory of the card, GiB |", "|---|---|---|---|"]
    for stage, name in ROWS:
        row = stages.get(stage, {}).get("rows", {}).get(name)
        if row is None:
            lines.append(f"| {name} | {reason(stages.get(stage), name)} | | |")
            continue
        memory = "" if row["card_used_gib"] is None else f"{row['card_used_gib']:.1f}"
        span = f"{figures(min(row['turns']))} - {figures(max(row['turns']))}"
        lines.append(f"| {name} | {figures(row['median'])} | {span} | {memory} |")
    lines += ["", "| what was wanted | measured | wanted | met |", "|---|---|---|---|"]
    for stage, what, bound in WANTED:
        each = next((each for each in stages.get(stage, {}).get("wanted", []) if each["what"] == what), None)
        if each is None or each["value"] is None:
            lines.append(f"| {what} | {NOT_YET} | {bound} | |")
        else:
            lines.append(f"| {what} | {each['value']:.3g} | {bound} | {'yes' if each['met'] else 'no'} |")
    return "\n".join(lines)


def said(stages: dict[str, dict[str, Any]]) -> str:
    """On what it was measured, in a line."""
    if not stages:
        return f"Card: {NOT_YET}."
    keys = ("driver", "cuda_of_torch", "torch", "torchvision", "dali", "opencv")
    found: dict[str, None] = {}
    for fields in stages.values():
        machine = fields["machine"]
        versions = [f"{key} {machine[key]}" for key in keys if key in machine]
        on = [machine.get("gpu", "no card"), *versions, f"{machine['cores']} cores of {machine['cpu']}"]
        found[", ".join(on)] = None
    # DALI comes with the last part, so stages may differ in it.
    return "Card: " + "; ".join(found) + "."


def reason(stage: dict[str, Any] | None, name: str) -> str:
    """Why a row has no figure."""
    for kind in ("skipped", "dropped", "failed"):
        if stage and name in stage[kind]:
            return f"{kind}: {stage[kind][name]}".replace("|", "/")
    return NOT_YET


def figures(value: float) -> str:
    """Three figures are all that such a measurement holds."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
