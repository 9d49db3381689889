"""A photograph that is sent is graded as `trainer predict` grades it, or refused in the same words; nothing is kept."""

import csv
import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.cache.cache import open_cache
from tests.trainer.conftest import Trained, invoke
from tests.trainer.serving.conftest import Client, jpeg, served
from trainer.inference.gradcam import grad_cam
from trainer.inference.predictor import Predictor
from trainer.kinds import PROBABILITIES
from trainer.network.decision import DecisionRule
from trainer.network.image_statistics import FLAG
from trainer.network.metadata import read_metadata
from trainer.network.model import load_model, save_model
from trainer.run_folder import RunFolder
from trainer.serving import app
from trainer.serving.lightbox import HEADER


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in its header, and next to nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


def table(*answers: dict[str, object], level: int = 0) -> list[dict[str, str]]:
    """The table that the page puts together, read as a spreadsheet reads it."""
    text = HEADER + "".join(f"{answer['ids'][level]},{answer['row']}" for answer in answers)  # type: ignore[index]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_row_of_a_photograph_is_that_of_predict(trained: Trained, tmp_path: Path) -> None:
    """But for the last bits, which depend on how many photographs a network is given at a time."""
    names = ["17_left.jpg", "17_right.jpg", "=1+1.jpg", "-3_left.jpg", "'quoted'.jpg", 'a "b", c.jpg']
    (tmp_path / "eyes").mkdir()
    for seed, name in enumerate(names):
        (tmp_path / "eyes" / name).write_bytes(jpeg(seed, red=40 * (seed % 2)))
    invoke("predict", trained.run, "eyes", "--defer", 0.1, "--device", "cpu")
    theirs = pd.read_csv("predictions.csv", dtype=str, keep_default_na=False).set_index("id")
    least = DecisionRule.of(read_metadata(trained.run / "model.safetensors")).least_confidence(0.1)
    with served(trained.run, least) as client:
        answers = [client.post("grade", f"eyes/{name}", (tmp_path / "eyes" / name).read_bytes()) for name in names]
    assert {answer.status for answer in answers} == {200}
    ours = pd.DataFrame(table(*(answer.json for answer in answers))).set_index("id").reindex(theirs.index)
    assert list(ours.columns) == list(theirs.columns)
    numbers = [*PROBABILITIES, "p_referable"]
    np.testing.assert_allclose(ours[numbers].astype(float), theirs[numbers].astype(float), atol=1e-5)
    pd.testing.assert_frame_equal(ours.drop(columns=numbers), theirs.drop(columns=numbers))


@pytest.mark.parametrize(
    "name", ["=cmd|'C calc'!A0.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "\tx.jpg", "\rx.jpg", "'=x.jpg"]
)
def test_no_cell_is_computed_by_a_spreadsheet(client: Client, name: str) -> None:
    answer = client.post("grade", name, jpeg()).json
    (row,) = table(answer)
    for cell in (row["id"], row["source"]):
        assert cell.startswith("'")
    assert row["source"] == f"'{name}"  # one apostrophe away, it is the name again
    assert row["id"] == f"'{name.removesuffix('.jpg')}"


def test_ids_grow_until_they_differ(client: Client) -> None:
    assert client.post("grade", "b/c/y.jpg", jpeg()).json["ids"] == ["y", "b/c/y", "b/c/y.jpg"]


@pytest.mark.parametrize(
    ("name", "patient", "eye"),
    [
        ("a/17_left.jpeg", "17", "left"),
        ("P001_OD.png", "P001", "right"),
        ("1_l2.jpg", "1", "left"),
        ("scan.jpg", "", ""),
    ],
)
def test_eyes_are_named_as_the_pipeline_names_them(client: Client, name: str, patient: str, eye: str) -> None:
    answer = client.post("grade", name, jpeg()).json
    assert (answer["patient"], answer["eye"]) == (patient, eye)


def test_the_decision_stands_in_words(trained: Trained, client: Client) -> None:
    answer = client.post("grade", "noise.jpg", jpeg()).json
    operating = load_model(RunFolder(trained.run).model)[1].operating
    assert operating is not None
    p_referable = sum(answer["probabilities"][2:])
    assert answer["referable"] == (p_referable >= operating.threshold)
    assert f"{100 * p_referable:.1f}\N{NO-BREAK SPACE}%" in answer["why"]
    otherwise = "The predicted grade alone would say otherwise" in answer["why"]
    assert otherwise == (answer["referable"] != (answer["grade"] >= 2))
    flags = table(answer)[0]["flags"].split()
    assert "no_disc" in flags
    assert len(answer["notes"]) == len(flags)
    assert not any(flag in note for note in answer["notes"] for flag in flags)
    assert answer["defer"] == any(flag.startswith(FLAG) or flag == "blank" for flag in flags)


def test_a_heat_map_is_grad_cams(trained: Trained, client: Client) -> None:
    graded, explained = (client.post(what, "x.jpg", jpeg(3)).json for what in ("grade", "explain"))
    assert explained["heat"].startswith("data:image/jpeg;base64,")
    assert f"grade {graded['grade']} ({graded['grade_name']})" in explained["words"]
    nothing = "Nothing in the picture speaks" in explained["words"]
    predictor = Predictor(trained.run, "cpu", 1)
    from trainer.inference.inputs import render, uploaded

    (batch,) = render([uploaded("x.jpg", jpeg(3))], predictor.metadata, device=torch.device("cpu"), workers=1)
    heat = grad_cam(predictor.model, batch.images, torch.tensor([graded["grade"]]))
    assert nothing == (not heat.any())


@pytest.mark.parametrize("what", ["grade", "explain"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"no photograph", "not an image: text"),
        (b"<html><script>alert(1)</script>", "not an image: HTML text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image: text"),
        (bomb(), "60000 x 60000 pixels, more than the 120,000,000 allowed"),
        (jpeg()[:600], "cut off"),
    ],
)
def test_what_is_no_photograph_is_refused_whatever_its_name(client: Client, what: str, data: bytes, words: str) -> None:
    answer = client.post(what, "17_left.jpg", data)
    assert answer.status == 422
    assert words in answer.json["error"]


def test_one_that_fails_does_not_stop_the_others(client: Client) -> None:
    answers: dict[int, int] = {}

    def send(number: int) -> None:
        data = jpeg(number) if number % 3 else bomb()
        answers[number] = client.post("grade", f"{number}.jpg", data).status

    threads = [threading.Thread(target=send, args=[number]) for number in range(18)]  # as several pages at once do
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: 200 if number % 3 else 422 for number in range(18)}


def test_nothing_is_written(trained: Trained, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph of 2 MB, more than many a server holds before it goes to a file for what it receives."""
    written: list[object] = []
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *a, **k: written.append(path) or opened(path, flags, *a, **k))
    before = sorted(Path(tmp_path).rglob("*")), sorted(trained.run.rglob("*"))
    assert client.post("grade", "../../etc/passwd.jpg", jpeg(side=1200)).status == 200
    assert (sorted(Path(tmp_path).rglob("*")), sorted(trained.run.rglob("*"))) == before
    assert written == []


def test_limits_are_kept_and_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MOST_BYTES", 1000)
    answer = client.post("grade", "x.jpg", b"\xff" * 1001)
    assert (answer.status, answer.json["error"]) == (413, "1,001 bytes, more than the 1,000 allowed")
    monkeypatch.setattr(app, "MOST_HELD", 500)
    answer = client.post("grade", "x.jpg", b"\xff" * 501)
    assert (answer.status, answer.json["error"]) == (503, "too many photographs wait already; try again in a moment")
    monkeypatch.setattr(app, "MOST_WAITING", 0)
    assert client.post("grade", "x.jpg", b"").status == 503
    for name in ("", "x" * 1001):
        answer = client.post("grade", name, b"")
        assert (answer.status, "needs a name of 1 to 1000 characters" in answer.json["error"]) == (400, True)


def test_out_of_memory_is_said_of_the_photograph(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("trainer.inference.inputs.prepare", full)
        answer = client.post("grade", "x.jpg", jpeg())
    assert (answer.status, answer.json) == (422, {"error": "too large for the memory of this machine"})
    assert client.post("grade", "x.jpg", jpeg()).status == 200


def test_the_least_sure_are_left_to_a_person(trained: Trained) -> None:
    with served(trained.run, least=1e9) as client:
        answer = client.post("grade", "x.jpg", jpeg()).json
    assert (answer["kind"], answer["defer"]) == ("human", True)
    assert answer["headline"] == "For a person to decide"
    assert table(answer)[0]["defer"] == "1"


# --- the page


def test_the_page_says_what_the_weights_are_and_cannot_do(trained: Trained, client: Client) -> None:
    text = client.get().body.decode()
    cache = open_cache(trained.cache).manifest["split"].value_counts()
    for words in (
        "Not a medical device",
        "grade 2 (moderate) or worse",
        "Macular oedema and other diseases are not looked for",
        f"Trained on {cache['train']} photographs; epoch and threshold were chosen on {cache['val']} others",
        f"Measured on {cache['test']} test photographs of {cache['test']} patients. Sensitivity (",
        "Sensitivity (referable photographs that are referred)",
        "read the intervals before the figures",
    ):
        assert words in text, words


def test_of_a_file_alone_no_figures_are_known(trained: Trained, tmp_path: Path) -> None:
    model, metadata = load_model(RunFolder(trained.run).model)
    save_model(tmp_path / "<b>.safetensors", model, metadata)
    with served(tmp_path / "<b>.safetensors") as client:
        text = client.get().body.decode()
    assert "a file without its run folder, so no test figures are known" in text
    assert "&lt;b&gt;.safetensors" in text
    assert "<b>" not in text


def test_figures_that_are_damaged_or_missing_do_not_stop_it(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy(tmp_path / "other")
    RunFolder(run).metrics("test").write_text('{"photographs": 5}')
    with served(run) as client:
        assert "of an earlier version: `trainer evaluate" in client.get().body.decode()
    RunFolder(run).metrics("test").unlink()
    with served(run) as client:
        assert "No test figures:" in client.get().body.decode()
