import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.cache.manifest import Row
from pipeline.cache.writing import make_tables, with_tables
from tests.conftest import write_cache
from tests.report_tables import text_of
from tests.trainer.conftest import Trained, invoke, write_tiny_cache
from tools.cli import main as tools
from trainer.cli import main as trainer_main
from trainer.config import FitConfig
from trainer.network.model import load_model, save_model
from trainer.reporting.page import plain

Fit = Callable[..., Result]
Cache = Callable[..., Path]
Patch = pytest.MonkeyPatch

HOSTILE = "<script>alert(1)</script>&\"'_left"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@pytest.fixture(scope="module")
def reported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report and card."""
    run = trained.copy(tmp_path_factory.mktemp("reported") / "run")
    invoke("report", run, "--card", run / "CARD.md", rendered=True)
    return run


def test_the_page_and_the_card_say_what_was_measured(reported: Path) -> None:
    metrics = json.loads((reported / "metrics_test.json").read_text())
    page, card = (
        text_of(reported / "report.html"),
        (reported / "CARD.md").read_text().replace("\N{NO-BREAK SPACE}", " "),
    )
    low, high = metrics["intervals"]["accuracy"]
    for text in (page, card):
        assert percent(metrics["accuracy"]) in text
        assert f"{percent(low)} to {percent(high)}" in text
        assert f"{metrics['kappa']:.3f}".replace("-", "\N{MINUS SIGN}") in text
        assert percent(metrics["no_image"]["majority"]["accuracy"]) in text
        assert f"{metrics['operating']['threshold']:.3f}" in text
        assert json.loads((reported / "config.json").read_text())["cache_digest"] in text
        assert "no patient of the 5 test photographs is in train" in text
        assert "Slope and intercept are not estimated: they need 10 patients with a referable photograph" in text
        calibration = metrics["referable"]["calibration"]
        assert re.search(rf"Brier score of the referral (0 )?{calibration['brier']:.3f}", text)  # on the page: best 0
        least, most = calibration["intervals"]["brier"]
        assert f"{least:.3f} to {most:.3f}" in text
        assert "nine false referrals count as much as one right one" in text
    title = f"{reported.parent.name}/run"  # of a folder that is called run, which says nothing, the one above too
    assert card.startswith(f"# Model card: {plain(title)}\n")
    assert f"<h1>{title}</h1>" in (reported / "report.html").read_text()
    assert f"<!-- {title}, test -->" in (reported / "confusion_test.svg").read_text().replace("\n", " ")
    assert "{{" not in page + card


def test_page_and_card_say_where_all_photographs_went_when_and_what_referable_means(reported: Path) -> None:
    noted, config = (json.loads((reported / name).read_text()) for name in ("dates.json", "config.json"))
    page, card = text_of(reported / "report.html"), (reported / "CARD.md").read_text()
    assert "Found: 30 photographs = 30 cached" in card
    assert "Cached: 30 photographs of 30 patients = 20 train (20 patients) + 5 val (5 patients) + 5 test" in card
    assert "test: 5 photographs = 5 measured (5 patients; referable 3, not referable 2)" in card
    assert "Cached 30 photographs of 30 patients" in page
    assert "Measured: test, graded 5 photographs of 5 patients referable 3, not referable 2" in page
    assert f"Trained {noted['trained']}, measured {noted['measured test']}, page made" in page
    assert f"Trained: {noted['trained']}; measured on test: {noted['measured test']}; this card made" in card
    for text in (page, card):
        assert "kappa of 0.78" in text
        assert "knows nothing of macular oedema" in text
        assert "(the name of its folder; no known set was recognised)" in text
        assert config["versions"]["torch"] in text
        assert config["versions"]["fundus-grading"] in text
    assert "WARNING" not in card


def test_unknown_patients_and_drawn_eyes_are_warned_of_at_the_top(trained: Trained, tmp_path: Path) -> None:
    run, cache = trained.copy(tmp_path / "run"), tmp_path / "cache"
    shutil.copytree(trained.cache, cache)
    found = open_cache(cache)
    rows = [Row(*row)._replace(patient=row[0], flags="synthetic") for row in found.manifest.itertuples(False, None)]
    with_tables(found.index, tables := make_tables(rows, [])).write(cache)
    for name, data in tables.items():
        (cache / name).write_bytes(data)
    config = json.loads((run / "config.json").read_text())
    config |= {"cache": str(cache), "cache_digest": open_cache(cache).digest}
    (run / "config.json").write_text(json.dumps(config))
    for split in ("val", "test"):
        metrics = json.loads((run / f"metrics_{split}.json").read_text())
        (run / f"metrics_{split}.json").write_text(json.dumps(metrics | {"cache": config["cache_digest"]}))
    invoke("report", run, "--card", run / "CARD.md")
    page, card = (run / "report.html").read_text(), (run / "CARD.md").read_text()
    top = page[: page.index("<nav")]
    said = (
        "The patients are not known, so a leak",
        "The patients of the photographs measured are not known. Each of these photographs counts as one patient.",
        "SYNTHETIC: 20 of 20 train, 5 of 5 val, 5 of 5 test photographs",
    )
    assert all(f'<p class="alarm">{line}' in top for line in said)
    assert card.index("[!WARNING]") < card.index("## Model")
    for text in (text_of(run / "report.html"), card):
        assert all(line in text for line in said)
        assert "5 photographs, whose patients are not known" in text
        assert not re.search(r"\b5 patients", text)
        assert "bootstrap over photographs" in text
        assert "Only 5 photographs were measured" in text
        assert "the worse eye decides" not in text


def test_the_net_benefit_is_of_the_prevalence_that_evaluate_was_given(
    trained: Trained, trainer: Fit, tmp_path: Path
) -> None:
    run = trained.copy(tmp_path / "run")
    trainer("evaluate", run, "--prevalence", 0.1)
    trainer("report", run, "--card", "CARD.md")
    benefit = json.loads((run / "metrics_test.json").read_text())["referable"]["net_benefit"]
    assert benefit["prevalence"] == 0.1
    assert benefit["refer_all"][8] == pytest.approx(0)  # at a threshold of 10 %: 0.1 - 0.9 / 9
    assert "weighted to a population in which 10.0 % are referable" in text_of(run / "report.html")
    assert "Net benefit, where 10.0\N{NO-BREAK SPACE}% are referable" in (tmp_path / "CARD.md").read_text()


def test_the_page_loads_nothing_and_runs_nothing(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert "<script" not in page
    for source in re.findall(r'(?:src|href)="(.*?)"', page):
        assert source.startswith(("data:", "#"))
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert "default-src 'none'" in page


def test_every_figure_is_there_as_png_and_svg(reported: Path) -> None:
    names = {
        "accuracy",
        "confusion_test",
        "roc_test",
        "precision_recall_test",
        "risk_coverage_test",
        "reliability_test",
        "decision_curve_test",
        "referable_calibration_test",
    }
    assert {path.stem for path in reported.glob("*.png")} >= names
    assert {path.stem for path in reported.glob("*.svg")} >= names
    assert (reported / "report.html").read_text().count('<svg role="img" aria-label="') == len(names)


def test_a_report_on_another_split_stands_beside_it(reported: Path) -> None:
    test = (reported / "report.html").read_bytes()
    invoke("report", reported, "--split", "val")
    assert "(the validation part)" in text_of(reported / "report_val.html")
    assert (reported / "roc_val.svg").exists()
    assert (reported / "report.html").read_bytes() == test


def test_a_report_of_the_same_run_is_the_same_page_but_for_its_day(reported: Path, monkeypatch: Patch) -> None:
    made = []
    for day in ("2026-01-02", "2026-01-02", "2026-01-03"):
        monkeypatch.setattr("trainer.reporting.disclosure.today", lambda day=day: day)
        invoke("report", reported)
        made.append((reported / "report.html").read_bytes())
    assert made[0] == made[1] == made[2].replace(b"2026-01-03", b"2026-01-02")


def test_its_commands_make_this_very_run(reported: Path, trained: Trained) -> None:
    page = (reported / "report.html").read_text()
    found = re.search(r"<pre.*?><code>(.*?)</code>", page, re.DOTALL)
    assert found
    lines = [shlex.split(line) for line in found[1].strip().splitlines()]
    assert [line[:2] for line in lines] == [
        ["tools", "preprocess"],
        ["trainer", "fit"],
        ["trainer", "evaluate"],
        ["trainer", "report"],
    ]
    parsed = {}
    for program, name, *rest in lines:
        command = {"tools": tools, "trainer": trainer_main}[program].commands[name]
        parsed[name] = command.make_context(name, rest, parent=click.Context(trainer_main)).params
    asked = FitConfig(**json.loads((reported / "config.json").read_text())["asked"])
    assert asked == FitConfig(**{name: parsed["fit"][name] for name in vars(asked) if name != "together"})
    assert parsed["preprocess"]["size"] == 32
    assert Path(parsed["fit"]["run"]) == reported


def test_what_users_named_is_text_and_never_markup(tmp_path: Path, trainer: Fit, fit: Fit) -> None:
    random = np.random.default_rng(0)
    ids = {f"{split}{n}_left": split for split in ("train", "val") for n in range(5)} | {
        HOSTILE: "test",
        "a_left": "test",
    }
    pictures = {id: random.integers(0, 255, (32, 32, 3), np.uint8) for id in ids}
    cache = write_cache(tmp_path / "c<b>&", pictures, {id: n % 5 for n, id in enumerate(ids)}, ids)
    run = tmp_path / "<img src=x onerror=alert(1)> $x_1$ `*|"
    fit(cache, "--run", run, "--epochs", 1)
    trainer("report", run, "--card", "CARD.md")
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "c<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;_left" in page
    assert r"# Model card: \<img src=x onerror=alert(1)\> $x\_1$ \`\*\|" in (tmp_path / "CARD.md").read_text()


@pytest.mark.parametrize(
    ("grades", "said"),
    [
        # One class only, and not referable: no curve, no AUC, but a page that says so.
        ([0, 0, 0], ["None of the photographs are referable", "none of the photographs measured are referable"]),
        ([4, 4], ["All of the photographs are referable", "all of the photographs measured are referable"]),
        ([2], ["Only one patient was measured", "measured on 1 photographs"]),
    ],
)
def test_what_a_split_cannot_define_is_said(
    grades: list[int], said: list[str], fit: Fit, trainer: Fit, tmp_path: Path
) -> None:
    fit(write_tiny_cache(tmp_path / "cache", test=grades), "--run", "run", "--epochs", 1)
    trainer("report", "run", "--card", "CARD.md")
    page = text_of(tmp_path / "run/report.html")
    for words in said:
        assert words in page
    assert "not defined" in page
    assert not re.search(r"\b(nan|None|inf)\b(?! of)", page)
    assert not re.search(r"\b(nan|None|inf)\b(?! of)", (tmp_path / "CARD.md").read_text())
    assert not (tmp_path / "run/roc_test.png").exists()


def test_without_an_operating_point_the_page_says_why(
    fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    fit(tiny_cache(val=[0, 1, 0, 1]), "--run", "run", "--epochs", 1)
    trainer("report", "run", "--card", "CARD.md")
    assert "There is no operating point: the weights carry no threshold" in text_of(tmp_path / "run/report.html")
    assert "The weights carry no threshold" in (tmp_path / "CARD.md").read_text()


def test_a_leak_stands_where_it_is_seen(fit: Fit, trainer: Fit, tmp_path: Path) -> None:
    fit(write_tiny_cache(tmp_path / "leaky", leaky=True), "--run", "run", "--epochs", 1)
    trainer("report", "run")
    page = text_of(tmp_path / "run" / "report.html")
    assert "LEAK: 5 of 5 test photographs (100%) show a patient who is also in train" in page
    assert "No image: fellow eye" in page


def test_figures_about_another_cache_that_an_earlier_version_left_are_refused(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    metrics = json.loads((run / "metrics_test.json").read_text())
    (run / "metrics_test.json").write_text(json.dumps(metrics | {"cache": "another"}))
    line = "metrics_test.json is about another cache; `trainer evaluate run --split test` measures the run's own"
    assert line in trainer("report", "run", exit=1).stderr


@pytest.mark.slow
def test_probabilities_that_tie_have_a_report(trained: Trained, trainer: Fit, tmp_path: Path) -> None:
    """Weights of zero: every photograph has 0.2 for every grade."""
    run = trained.copy("run")
    model, metadata = load_model(run / "model.safetensors")
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    save_model(run / "model.safetensors", model, metadata)
    trainer("evaluate", "run")
    trainer("report", "run")
    page = text_of(run / "report.html")
    assert "It gives every photograph the same grade, 0 (no DR)." in page
    assert "better than chance is not shown" in page


def test_without_its_cache_a_run_has_a_report_without_photographs(
    trained: Trained, trainer: Fit, tmp_path: Path
) -> None:
    run = trained.copy("run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"cache": "moved"}))
    result = trainer("report", "run")
    assert "no photographs, subgroups and splits: moved does not exist" in result.stderr
    page = (run / "report.html").read_text()
    assert "Left out, for the cache is not at hand (moved does not exist" in page
    assert "<img" not in page
    trainer("report", "run", "--cache", trained.cache)
    assert "<img" in (run / "report.html").read_text()


def without(run: Path, *names: str) -> None:
    """As an earlier version wrote the metrics, without these keys."""
    file = run / "metrics_test.json"
    file.write_text(json.dumps({key: part for key, part in json.loads(file.read_text()).items() if key not in names}))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda run: without(run, "deferral"), "is damaged or of an earlier version"),
        (lambda run: without(run, "referable"), "is damaged or of an earlier version"),
        (lambda run: without(run, "intervals"), "is damaged or of an earlier version"),
        (lambda run: (run / "config.json").unlink(), "run is not a run"),
        (lambda run: (run / "metrics_test.json").unlink(), "`trainer evaluate run --split test` measures it"),
        (lambda run: (run / "predictions_test.csv").unlink(), "`trainer evaluate run --split test` measures it"),
        (lambda run: (run / "metrics_test.json").write_text("{"), "metrics_test.json is damaged"),
        (lambda run: (run / "metrics_test.json").write_text("{}"), "is damaged or of an earlier version"),
        (lambda run: (run / "predictions_test.csv").write_text("id\n"), "predictions_test.csv is damaged"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda run: (run / "accuracy.csv").unlink(), "accuracy.csv is missing"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_reported_is_one_line(
    spoil: Callable[[Path], object], problem: str, trained: Trained, trainer: Fit
) -> None:
    spoil(trained.copy("run"))
    stderr = trainer("report", "run", exit=1).stderr
    assert problem in stderr
    assert stderr.count("\n") == 1


def test_metrics_that_lack_what_came_later_are_reported_without_it(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    without(run, "eye", "subgroups", "ungradable_referral", "exposure")
    trainer("report", "run")
    page = (run / "report.html").read_text()
    assert "By eye, the mean" not in page
    assert "Ungradable photographs" not in page


def test_predictions_of_other_photographs_are_refused(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    pd.read_csv(run / "predictions_test.csv", dtype=str).head(3).to_csv(run / "predictions_test.csv", index=False)
    assert "are of different photographs" in trainer("report", "run", exit=1).stderr


def test_another_cache_than_the_measured_one_is_refused(trained: Trained, trainer: Fit, tiny_cache: Cache) -> None:
    trained.copy("run")
    other = tiny_cache(test=[0, 1], name="other")
    assert "is not the cache that was measured" in trainer("report", "run", "--cache", other, exit=1).stderr


def test_a_page_that_cannot_be_written_is_one_line(trained: Trained, trainer: Fit, tmp_path: Path) -> None:
    trained.copy("run")
    (tmp_path / "file").touch()
    stderr = trainer("report", "run", "--out", "file/report.html", exit=1).stderr
    assert "cannot be written" in stderr
    assert stderr.count("\n") == 1
