"""`tools sheet`: contact sheets of the photographs of a cache, as cached or as training augments them."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pipeline.cache.cache import Cache
from pipeline.cache.splits import SPLITS
from pipeline.errors import CacheError
from pipeline.grades import GRADES, UNKNOWN
from pipeline.loading.plan import Augment, plan_epoch
from pipeline.machine import usable_cores
from pipeline.photos.contact_sheet import Tile, draw_sheet, thumbnail

Grouping = Literal["grade", "split", "flag"]


def sheet_of_cache(cache: Cache, by: Grouping = "grade", per_group: int = 12) -> Image.Image:
    """A sheet with at most `per_group` photographs of each grade, split or flag. Headings have the total numbers.

    Raises CacheError if a photograph is damaged.
    """
    picked = pick_rows(cache.manifest, by, per_group)
    return draw_sheet({heading: [_tile(cache, row, by) for row in rows.tolist()] for heading, rows in picked.items()})


def sheet_of_augmented(
    cache: Cache, augment: Augment, by: Grouping = "grade", per_photograph: int = 12, *, seed: int = 0
) -> Image.Image:
    """A sheet with two training photographs of each grade or flag, one a row: first as cached, then as the first epochs
    of a training with this seed show it, `per_photograph` pictures in total.

    Raises CacheError if no photograph is in train, or if one is damaged.
    """
    train = cache.rows("train")
    if not len(train):
        raise CacheError(f"{cache.path}: no photograph is in train, so training sees none")
    picked = pick_rows(cache.manifest.iloc[train], by, 2)
    rows = train[list(dict.fromkeys(np.concatenate(list(picked.values())).tolist()))]
    epochs = [_rendered(cache, rows, augment, seed, epoch) for epoch in range(per_photograph - 1)]
    groups = {}
    for position, row in enumerate(rows.tolist()):
        sample = cache.manifest.iloc[row]
        shown = [_tile(cache, row, by)._replace(caption="cached")]
        shown += [Tile(pictures[position], f"epoch {epoch}") for epoch, pictures in enumerate(epochs, 1)]
        grade = "not graded" if sample["grade"] == UNKNOWN else f"{sample['grade']} {GRADES[sample['grade']]}"
        groups[f"{sample['id']}: {grade} {sample['flags']}"] = shown
    return draw_sheet(groups)


def _rendered(cache: Cache, rows: NDArray[np.int64], augment: Augment, seed: int, epoch: int) -> NDArray[np.uint8]:
    """The photographs as the loader renders them for an epoch, counted from 0: RGB, (n, size, size, 3)."""
    import threading
    from functools import partial

    from pipeline.loading.torchvision_loader import Renderer, decoded

    size = cache.recipe.size
    plan = plan_epoch(rows, augment, source_size=size, size=size, shuffle=False, seed=seed, epoch=epoch)
    with Renderer(size, size, device="cpu", workers=usable_cores()) as renderer:
        pictures = [partial(decoded, renderer.decode, cache, row) for row in plan.rows.tolist()]
        return renderer.finish(renderer.begin(pictures, plan, threading.Event())).permute(0, 2, 3, 1).numpy()


def pick_rows(manifest: pd.DataFrame, by: Grouping, per_group: int) -> dict[str, NDArray[np.int64]]:
    """Heading -> rows of the manifest, evenly spaced. A photograph with two flags is under both.

    Grades and splits without photographs have a heading too. "not graded" and "in no split" appear only if there are
    such photographs.
    """
    if by == "grade":
        groups = {f"{grade} {name}": manifest["grade"] == grade for grade, name in enumerate(GRADES)}
        rest = {"not graded": manifest["grade"] == UNKNOWN}
    elif by == "split":
        groups = {split: manifest["split"] == split for split in SPLITS}
        rest = {"in no split": manifest["split"] == ""}
    else:
        flags = manifest["flags"].map(str.split)
        names = sorted({name for some in flags for name in some})
        groups = {name: flags.map(lambda some, name=name: name in some) for name in names}
        groups["no flag"] = manifest["flags"] == ""
        rest = {}
    groups |= {name: members for name, members in rest.items() if members.any()}
    picked = {}
    for name, members in groups.items():
        rows = np.flatnonzero(members)
        positions = np.linspace(0, len(rows) - 1, min(per_group, len(rows))).round().astype(int)
        picked[f"{name}: {len(rows):,}"] = rows[positions]
    return picked


def _tile(cache: Cache, row: int, by: Grouping) -> Tile:
    sample = cache.manifest.iloc[row]
    grade = f"grade {sample['grade']} " if by != "grade" and sample["grade"] != UNKNOWN else ""
    return Tile(thumbnail(cache.read(row)), sample["id"], grade + sample["flags"])
