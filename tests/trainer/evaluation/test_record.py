"""What a metrics file says comes back as it was measured, to the last digit, and older files are told apart."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.cache.eyes import EyeTable
from pipeline.cache.splits import patients_of
from tests.trainer.recorded import METRICS, OF_SET, recorded
from trainer.evaluation.metrics import predictions_table
from trainer.evaluation.record import ICDR, MetricsRecord, OriginalSize, Scale, SetDescription
from trainer.evaluation.refit import refit
from trainer.evaluation.results import assess
from trainer.evaluation.subgroups import measure_subgroups
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.image_statistics import Drift
from trainer.network.metadata import Operating
from trainer.network.provenance import Exposure


@pytest.fixture(scope="module")
def measured() -> MetricsRecord:
    """With every part that there is: 240 photographs of 120 eyes of 60 patients, 12 of them ungradable."""
    random = np.random.default_rng(0)
    n = 240
    grades = random.integers(0, 5, n)
    ids = [f"{number}" for number in range(n)]
    manifest = pd.DataFrame({"id": ids, "patient": [f"p{number // 4}" for number in range(n)], "grade": grades})
    manifest["eye"] = [("left", "right")[number // 2 % 2] for number in range(n)]
    manifest["split"] = np.where(np.arange(n) < 40, "train", "test")
    manifest["flags"] = np.where(np.arange(n) % 20 == 3, "ungradable", "")
    rows = manifest[manifest["split"] == "test"].reset_index(drop=True)
    p = random.dirichlet(np.ones(5), len(rows)) + np.eye(5)[rows["grade"]]
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    predictions = predictions_table(rows["id"], rows["grade"].to_numpy(), p)
    operating = Operating(1.25, 0.4, "sensitivity", 0.9)
    eyes = EyeTable.of(manifest, pd.DataFrame(index=manifest.index))
    patients = patients_of(manifest, predictions["id"])
    sites = pd.Series(np.where(np.arange(len(rows)) % 8 < 4, "A", "B")).astype("category")
    return MetricsRecord(
        split="test",
        digest="0f",
        results=assess(manifest, "test", predictions, p, operating, 0.1, eyes=eyes),
        scale=Scale("messidor", False),
        subgroups=measure_subgroups(Sample.of(predictions, patients), {"site": sites}, 0.4),
        exposure=Exposure(200, 3, 2, 1),
        description=SetDescription(
            name="clinic",
            place="/data/clinic/cache",
            prevalence=0.6,
            ungraded=3,
            ungradable=12,
            synthetic=0,
            data_set="IDRiD",
            other_recipe=True,
            cameras=[OriginalSize("1024 x 683 px", 200)],
            drift=Drift(200, 5, {"colour": 5}),
            refit=refit(predictions, patients, operating, 60),
        ),
    )


def as_file(record: MetricsRecord) -> str:
    return json.dumps(record.as_dict(), indent=1, allow_nan=False)


def test_a_record_comes_back_as_it_was_measured_to_the_last_digit(measured: MetricsRecord) -> None:
    parts = measured.results
    assert all((parts.by_patient, parts.by_eye, parts.ungradable, parts.referable, measured.subgroups))
    text = as_file(measured)
    found = MetricsRecord.from_dict(json.loads(text))
    assert as_file(found) == text
    for name in ("split", "digest", "scale", "subgroups", "exposure", "description"):
        assert getattr(found, name) == getattr(measured, name), name
    for name in ("metrics", "patients", "intervals", "operating", "deferral", "no_image", "calibration", "referable"):
        assert getattr(found.results, name) == getattr(parts, name), name
    assert found.results.ungradable == parts.ungradable


def test_without_another_scale_or_an_external_set_the_file_says_nothing_of_them() -> None:
    record = recorded()
    assert (record.scale, record.description, record.subgroups, record.exposure) == (ICDR, None, None, None)
    assert not {"scale", "place", "eyes"} & record.as_dict().keys()


@pytest.mark.parametrize("missing", ["ungraded", "synthetic", "data_set"])
def test_what_an_earlier_version_did_not_write_is_not_known(missing: str) -> None:
    described = recorded(**OF_SET, **{missing: "IDRiD" if missing == "data_set" else 3}).description
    assert described is not None
    assert getattr(described, missing) in (3, "IDRiD")
    earlier = recorded(**OF_SET).description
    assert earlier is not None
    assert not getattr(earlier, missing)


@pytest.mark.parametrize("name", [*METRICS, "patients", "intervals"])
def test_a_file_without_every_figure_and_its_interval_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        recorded(**{name: "lost"})


@pytest.mark.parametrize("broken", [{"operating": {"threshold": 0.5}}, {"exposure": {}}, {"place": "x"}, {"scale": 1}])
def test_a_damaged_part_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not|no '"):
        recorded(**broken)
