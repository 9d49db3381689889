"""Photographs behind a URL are found and read as they are in a folder."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.errors import SourceError, StoreError
from pipeline.storage import object_store
from pipeline.storage.url import Url
from tests.loopback import Weather
from tools.cli import main
from tools.preprocessing.build_shards import CLOCK_SLACK_NS
from tools.sources.archives import read_source
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.layouts import list_source
from tools.sources.listing import Listing

Tree = dict[str, bytes]


def done(*arguments: object) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def tree(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Eight photographs in two folders, with everything beside them that people have there."""
    rng = np.random.default_rng(0)
    disc = np.hypot(*np.ogrid[-40:40, -50:50]) < 36
    src, rows = tmp_path / "eyes", []
    for patient in range(4):
        for eye in ("left", "right"):
            path = src / f"train {patient % 2}" / f"{patient}_{eye}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((rng.integers(60, 200, 3) * disc[..., None]).astype(np.uint8)).save(path, quality=90)
            rows.append(f"{patient}_{eye},{patient}\n")
    (src / "train 0/0_left.jpeg").rename(src / "train 0/0_left")  # no suffix: judged by content
    (src / "trainLabels.csv").write_text("image,level\n" + "".join(rows) + "9_left,0\n")
    (src / "train 1/README").write_text("about them")
    (src / "train 1/empty.png").touch()
    for left_out in (".thumbs/a.jpeg", "train 0/b.jpeg.part", "old/cache.json", "old/shards/0000.tar", "old/c.jpeg"):
        (src / left_out).parent.mkdir(parents=True, exist_ok=True)
        (src / left_out).write_bytes((src / "train 0/0_right.jpeg").read_bytes())
    return src


def put(folder: Path, url: Url) -> Url:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            object_store.send(path, url / str(path.relative_to(folder)))
    return url


@pytest.fixture
def bucket(eyes: Path, there: Url) -> Url:
    return put(eyes, there / "eyes")


def options(labels: Path | Url, grade: str) -> SourceOptions:
    return SourceOptions(labels, ColumnOptions({"photograph": "eye", "grade": grade}))


def told(listing: Listing) -> list[object]:
    """What a listing says, without times."""
    samples = sorted((id, found.source, found.nbytes, grade, split) for id, found, grade, split, *_ in listing.samples)
    return [listing.layout, samples, sorted(listing.refused), listing.rows, sorted(listing.ignored), listing.notes]


def test_the_same_is_found_as_in_a_folder(eyes: Path, bucket: Url) -> None:
    here, found = list_source(eyes), list_source(bucket)
    assert told(found) == told(here)
    assert len(here.samples) == 8
    for sample in found.samples:
        assert read_source(bucket, sample.file.source) == (eyes / sample.file.source).read_bytes()


def test_and_on_the_web(eyes: Path, web: Url) -> None:
    shutil.rmtree(eyes / ".thumbs")  # a server may show or hide them
    there = list_source(web / "eyes")
    assert told(there) == told(list_source(eyes))
    times = {sample.file.source: sample.file.mtime_ns for sample in there.samples}
    for source, mtime_ns in times.items():
        assert abs(mtime_ns - (eyes / source).stat().st_mtime_ns) < 1_000_000_000


@pytest.mark.parametrize("inside", [True, False])
def test_the_courses_four_tables_are_found_in_it_and_beside_it(inside: bool, eyes: Path, there: Url) -> None:
    (eyes / "trainLabels.csv").unlink()
    for name, text in {
        "train_img": "1_left\n2_left\n", "train_label": "0\n3\n", "test_img": "1_right\n", "test_label": "4\n"
    }.items():  # fmt: skip
        (eyes.parent / ("eyes" if inside else ".") / f"{name}.csv").write_text(text)
    local = list_source(eyes)
    for table in eyes.parent.glob("*.csv"):
        object_store.send(table, there / table.name)
    found = list_source(put(eyes, there / "eyes"))
    where = there / "eyes" if inside else there
    assert found.layout == f"the course's four tables without header in {where}"
    assert told(found)[1:] == told(local)[1:]
    assert len(found.samples) == 3


def test_labels_may_lie_behind_a_url_of_their_own(eyes: Path, bucket: Url, there: Url) -> None:
    object_store.send(b"eye;dr\n1_left;2\n", there / "mine.csv")
    listing = list_source(bucket, options(there / "mine.csv", "dr"))
    assert [(sample.id, sample.grade) for sample in listing.samples] == [("1_left", 2)]
    assert [(s.id, s.grade) for s in list_source(eyes, options(there / "mine.csv", "dr")).samples] == [("1_left", 2)]
    with pytest.raises(SourceError, match=rf"{there}/mine\.csv:1: no column 'grade' among eye, dr"):
        list_source(bucket, options(there / "mine.csv", "grade"))
    with pytest.raises(SourceError, match=rf"{there}/none\.csv: cannot be read \(no such file\)"):
        list_source(bucket, SourceOptions(there / "none.csv"))


def test_messages_about_tables_name_the_url(eyes: Path, there: Url) -> None:
    (eyes / "trainLabels.csv").write_text("image,level\n1_left,0,x\n")
    with pytest.raises(SourceError, match=rf"^{there}/eyes/trainLabels\.csv:2: expected 2 cells"):
        list_source(put(eyes, there / "eyes"))


def test_keys_that_lead_out_are_refused_by_name(eyes: Path, bucket: Url, s3: Weather, tmp_path: Path) -> None:
    import http.client

    for key in ("train%201/../../../outside.jpeg", "../outside.csv", "a//b.jpeg"):
        connection = http.client.HTTPConnection("127.0.0.1", s3.upstream)
        connection.request("PUT", f"/{bucket.path}/{key}", b"image,level\n1_left,0\n")
        assert connection.getresponse().status == 200
        connection.close()
    listing = list_source(bucket)
    assert {each.source for each in listing.refused if "its name is no path" in each.reason} == {
        "../outside.csv",
        "a//b.jpeg",
        "train 1/../../../outside.jpeg",
    }
    assert len(listing.samples) == 8
    assert not list(tmp_path.glob("outside*"))


def test_nothing_there_is_said(s3: Weather, there: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=rf"{there}/none: no photographs below it"):
        list_source(there / "none")
    with pytest.raises(SourceError, match="a MedMNIST file is read from a disk"):
        list_source(there / "retinamnist.npz")
    monkeypatch.setattr(object_store, "WAITS", (0.01,))
    s3.trouble = lambda method, path: "503"
    with pytest.raises(StoreError, match=rf"{there}: cannot be listed \(.*reduce your request rate.*tried 2 times"):
        list_source(there)


def test_it_makes_the_cache_that_the_folder_makes_and_a_rerun_opens_no_photograph(
    eyes: Path, bucket: Url, s3: Weather, tmp_path: Path
) -> None:
    done("preprocess", eyes, "--out", tmp_path / "here", "--size", 64)
    done("preprocess", bucket.text, "--out", tmp_path / "there", "--size", 64, "--workers", 2)
    here, there = tree(tmp_path / "here"), tree(tmp_path / "there")
    assert here.keys() == there.keys()
    assert {name for name in here if here[name] != there[name]} == {"manifest.csv", "cache.json"}  # times
    time.sleep(CLOCK_SLACK_NS / 1e9 + 1)
    done("preprocess", bucket.text, "--out", tmp_path / "there", "--size", 64)
    s3.requests.clear()
    assert "up to date, nothing written" in done("preprocess", bucket.text, "--out", tmp_path / "there", "--size", 64)
    assert [path for method, path in s3.requests if path.endswith(".jpeg")] == []
    assert tree(tmp_path / "there") == there

    object_store.send(eyes / "train 0/0_right.jpeg", bucket / "train 1/1_left.jpeg")
    s3.requests.clear()
    assert "1 encoded" in done("preprocess", bucket.text, "--out", tmp_path / "there", "--size", 64)
    assert {path.rpartition("/")[2] for _, path in s3.requests if path.endswith(".jpeg")} == {"1_left.jpeg"}


def test_a_network_that_is_gone_never_becomes_a_refused_photograph(
    bucket: Url, s3: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01,))
    s3.trouble = lambda method, path: "drop" if "/2_left" in path else None
    arguments = ["preprocess", bucket.text, "--out", str(tmp_path / "c"), "--size", "64"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "2_left.jpeg: cannot be read (" in result.stderr
    assert "run the same command to continue" in result.stderr
    s3.clear()
    assert "found 9 = 8 cached + 0 rejected + 1 ignored" in done(*arguments)


def test_a_source_there_can_be_audited(eyes: Path, bucket: Url) -> None:
    assert done("audit", bucket.text) == done("audit", eyes)
