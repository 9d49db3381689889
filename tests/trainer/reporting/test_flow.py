"""The flow of photographs and patients against sums written out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from tests.tools.sources.conftest import drawn_eye, encoded
from tests.trainer.recorded import OF_SET, recorded
from tools.cli import main
from trainer.reporting.external import Site
from trainer.reporting.flow import SHARED, Box, Part, flow_of, in_no_split, site_line
from trainer.reporting.measured import Measured


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Of 24 photographs as APTOS has them. With a row: 15 good ones, 2 ungradable, 1 black, 1 cut off, 1 of grade 7;
    4 have none, 3 of them in the test part. 2 rows have no photograph."""
    src = tmp_path_factory.mktemp("aptos")
    ids = [f"{number:012x}" for number in range(24)]
    for folder in ("train_images", "test_images"):
        (src / folder).mkdir()  # whose table has no grades
    files = {id: encoded(drawn_eye(number)) for number, id in enumerate(ids)}
    files[ids[17]] = encoded(Image.fromarray(np.zeros((96, 128, 3), np.uint8)))
    files[ids[18]] = files[ids[18]][:1500]
    for number, id in enumerate(ids):
        (src / ("test_images" if number in (20, 21, 22) else "train_images") / f"{id}.jpg").write_bytes(files[id])
    rows = [
        f"{id},{7 if number == 19 else number % 5},{int(number not in (15, 16))}" for number, id in enumerate(ids[:20])
    ]
    gone = ["aaaaaaaaaaaa,0,1", "bbbbbbbbbbbb,1,1"]
    (src / "train.csv").write_text("\n".join(["id_code,diagnosis,good", *rows, *gone, ""]))
    (src / "test.csv").write_text("\n".join(["id_code", *ids[20:23], ""]))
    out = src.parent / "aptos-cache"
    options = ["--out", str(out), "--size", "64", "--gradable-column", "good=1"]
    result = CliRunner().invoke(main, ["preprocess", str(src), *options], catch_exceptions=False)
    assert "found 24 = 18 cached + 2 rejected + 4 ignored" in result.output
    return open_cache(out)


def measured_on(cache: Cache | None, split: str = "test", ungraded: int = 0, sites: tuple[Site, ...] = ()) -> Measured:
    """As much of it as a flow takes; all photographs of the split that have a grade were measured."""
    photographs = {"train": 11, "val": 2, "test": 2}
    ids, grades = pd.Series(["a", "b"]), [1, 0, 0, 1, 0]
    if cache:
        photographs = {name: len(cache.rows(name)) for name in photographs}
        part = cache.manifest[(cache.manifest["split"] == split) & (cache.manifest["grade"] >= 0)]
        ids, grades = part["id"], np.bincount(part["grade"], minlength=5).tolist()
    return SimpleNamespace(  # type: ignore[return-value]
        cache=cache,
        split=split,
        record=recorded(photographs=len(ids), patients=len(ids), grades=grades),
        predictions=pd.DataFrame({"id": ids}),
        ungraded=ungraded,
        sites=sites,
        config=SimpleNamespace(photographs=photographs),
    )


def test_all_that_was_found_is_in_one_box_of_each_step(cache: Cache) -> None:
    flow = flow_of(measured_on(cache))
    assert flow.found == 24
    assert flow.refused == (
        Box("rejected", 2, parts=(Part("cut off", 1), Part("rows that cannot be used", 1))),
        Box("ignored", 4, parts=(Part("no row names it", 4),)),
    )
    assert flow.cached == Box("Cached", 24 - 2 - 4)  # nothing tells patients
    assert flow.outside == Box("in no split", 3, parts=(Part("blank", 1), Part("ungradable", 2)))
    splits = {box.title: box.photographs for box in flow.splits}
    assert sum(splits.values()) == 18 - 3 == 15
    assert flow.measured.photographs == splits["test"]
    assert [part.title for part in flow.measured.parts] == ["referable", "not referable"]
    assert sum(part.photographs for part in flow.measured.parts) == splits["test"]
    assert flow.rows == 2
    (lines_found, lines_cached, *_), (train, val, test) = flow.lines, splits.values()
    refused = "2 rejected (cut off 1, rows that cannot be used 1) + 4 ignored (no row names it 4)"
    assert lines_found == f"Found: 24 photographs = 18 cached + {refused}"
    outside = "3 in no split (blank 1, ungradable 2)"
    assert lines_cached == f"Cached: 18 photographs = {train} train + {val} val + {test} test + {outside}"


def test_the_diagram_has_the_same_numbers_from_top_to_bottom(cache: Cache) -> None:
    def total(boxes: tuple[Box, ...]) -> int:
        return sum(box.photographs for box in boxes)

    found, cached, splits, measured = flow_of(measured_on(cache, "train")).steps
    assert total(found.boxes) - total(found.leave) == total(cached.boxes)
    assert total(cached.boxes) - total(cached.leave) == total(splits.boxes)
    assert splits.boxes[0].photographs - total(splits.leave) == total(measured.boxes)
    for box in (
        each for step in (found, cached, splits, measured) for each in (*step.boxes, *step.leave) if each.parts
    ):
        assert sum(part.photographs for part in box.parts) == box.photographs


def test_what_a_cache_does_not_tell_is_left_out(cache: Cache) -> None:
    rejects = cache.path / "rejects.csv"
    assert isinstance(rejects, Path)
    kept = rejects.read_bytes()
    rejects.unlink()
    flow = flow_of(measured_on(cache))
    rejects.write_bytes(kept)
    assert flow.found is None
    assert [box.title for box in flow.steps[0].boxes] == ["Cached"]
    alone = flow_of(measured_on(None, ungraded=3))
    assert [box.title for step in alone.steps for box in step.boxes] == [
        "train", "val", "test", "measured: test, graded",
    ]  # fmt: skip
    assert alone.lines == [
        "test: 5 photographs = 2 measured (2 patients; referable 1, not referable 1) + 3 without a grade"
    ]


def test_a_photograph_that_takes_no_part_is_counted_once_and_its_patient_in_each_box() -> None:
    rows = [
        ("1_left", "1", 0, "train", ""),
        ("1_right", "1", -1, "", "ungradable"),
        ("2_left", "2", 2, "", "blank overexposed"),
        ("2_right", "2", -1, "", "blank ungradable"),
        ("3_left", "3", 1, "", "damaged"),
        ("3_right", "3", -1, "", ""),
    ]
    manifest = pd.DataFrame(rows, columns=["id", "patient", "grade", "split", "flags"])
    parts = (Part("blank", 2), Part("ungradable", 1), Part("no grade", 1), Part("graded, and in no split", 1))
    assert in_no_split(manifest) == Box("in no split", 5, 3, parts)
    index = SimpleNamespace(rejects="")
    cache: Any = SimpleNamespace(manifest=manifest, index=index, path=Path("nowhere"), rows=lambda split: [])
    flow = flow_of(measured_on(cache, "train"))
    assert flow.shared  # 1 of train and 3 in no split are 4, and there are 3
    assert SHARED in flow.lines
    assert flow.lines[0] == (
        "Cached: 6 photographs of 3 patients = 1 train (1 patient) + 5 in no split "
        "(3 patients; blank 2, ungradable 1, no grade 1, graded, and in no split 1)"
    )


def test_each_external_set_has_a_line(cache: Cache) -> None:
    site = Site("clinic", recorded(**OF_SET, photographs=38, patients=20, ungraded=2, data_set="IDRiD"))
    own = Site("own test part", recorded(photographs=5, patients=5))
    line = "External set clinic (IDRiD): 40 photographs = 38 measured (20 patients) + 2 without a grade"
    assert flow_of(measured_on(cache, sites=(own, site))).external == (line,)
    before = Site("older", recorded(**OF_SET, photographs=38, patients=1))  # measured before this was kept
    assert site_line(before) == "External set older: 38 measured (1 patient)"
