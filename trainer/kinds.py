"""The kinds of files that commands write, and how such a file is recognised before it is replaced (see
pipeline.storage.outputs)."""

import hashlib
from pathlib import Path
from typing import Final

from pipeline.grades import N_GRADES
from pipeline.storage.artifacts import EXPLAINED, MAKER, Kind, is_drawn, is_record, picture_kind
from pipeline.storage.outputs import Part


class Card(Kind):
    """A model card that is as the program wrote it. One that a person has edited is not of this kind."""

    def made(self, path: Path) -> bool:
        data = path.read_bytes()
        return not data or data == sealed(data.rpartition(b"<!-- ")[0])


def sealed(card: bytes) -> bytes:
    """A model card with its digest in a comment at the end, by which edits are recognised."""
    return card + f"<!-- {MAKER} {hashlib.sha256(card).hexdigest()} -->\n".encode()


PREDICTIONS: Final = Kind("a table of predictions", begins=b"id,source,predicted,")
REJECTS: Final = Kind("a table of refused photographs", begins=b"source,reason\n")
COMPARISON: Final = picture_kind("a comparison of runs")
COMPARED: Final = Kind("a table of compared runs", begins=b"run,model,weights,")
PAIRS: Final = Kind("a table of paired runs", begins=b"run,against,photographs,")
RANGE_TEST: Final = picture_kind("a range test of learning rates")
PAGE: Final = Kind("a report", holds=f'<meta name="generator" content="{MAKER}'.encode())
ONNX: Final = Kind("an exported network", begins=b"\x08", holds=f"{MAKER} ".encode())
CARD: Final = Card("a model card as `trainer report` wrote it; an edited one is kept")
PT2: Final = Kind("an exported network", begins=b"PK", holds=b"fundus_grading.json")


def is_explained_file(path: Path) -> bool:
    """Whether `trainer explain` wrote a file; True for a file that does not exist."""
    if not path.exists():
        return True
    if path.name == EXPLAINED:
        return is_record(path)
    return is_drawn(path) if path.suffix in (".jpg", ".png") else REJECTS.made(path)


def rejects_of(predictions: Path) -> Path:
    """The path of the table of refused photographs."""
    return predictions.with_name(f"{predictions.stem}_rejects.csv")


def beside_predictions(path: Path) -> list[Part]:
    return [Part(rejects_of(path), REJECTS)]


def beside_drawing(path: Path, kind: Kind) -> list[Part]:
    """The SVG beside a drawing's PNG."""
    return [Part(path.with_suffix(".svg"), kind)]


def comparison_parts(stem: Path) -> list[Part]:
    """OUT.png, OUT.svg, OUT.csv and OUT_pairs.csv of `trainer compare --out OUT`."""
    kinds = {".png": COMPARISON, ".svg": COMPARISON, ".csv": COMPARED, "_pairs.csv": PAIRS}
    return [Part(stem.with_name(f"{stem.name}{end}"), kind) for end, kind in kinds.items()]


PROBABILITIES: Final = tuple(f"p{grade}" for grade in range(N_GRADES))
"""Columns of a table of predictions."""
FELLOWS: Final = "fellows"
SCORE: Final = "score"
"""Two more of a network that takes the fellow eye into account; see trainer.evaluation.metrics."""
