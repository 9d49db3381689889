import hashlib
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.trainer.recorded import CARD, OF_SET, recorded
from trainer.evaluation.calibration import Bin
from trainer.evaluation.referable import Band, BinaryCalibration, NetBenefit, ReferableBin
from trainer.reporting.curves import Point, draw_precision_recall, draw_reliability, draw_roc
from trainer.reporting.drawings import STYLE, draw_accuracy, draw_comparison, draw_confusion, short_name
from trainer.reporting.external import Site
from trainer.reporting.forest import draw_forest
from trainer.reporting.referable_drawings import draw_decision_curve, draw_referable_calibration
from trainer.run_folder import ACCURACY_COLUMNS

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.random(300) < 0.3
SCORE = np.clip(RANDOM.normal(0.3 + 0.3 * TRUTH, 0.2), 0, 1)
POINT = Point(0.35, 0.9, 0.6, 0.45)
TABLE = pd.DataFrame([dict.fromkeys(ACCURACY_COLUMNS, 1.0) | {"epoch": n, "phase": "finetune"} for n in (1, 2, 3)])
BINS = [Bin(n / 15, (n + 1) / 15, n, (n + 0.5) / 15 if n else None, n / 20 if n else None) for n in range(15)]
BAND = Band([0.0, 0.5, 1.0], [0.2, 0.8, 1.0], [(0.1, 0.3), (0.7, 0.9), None])
COUNTS = "300 photographs, 90 referable\n150 patients"
OF: dict[str, Any] = {"band": BAND, "counts": COUNTS, "title": "run"}
CALIBRATION = BinaryCalibration(
    slope=0.9,
    intercept=-0.1,
    observed_expected=1.0,
    brier=0.1,
    intervals={},
    lacks=None,
    clip=1e-6,
    bins=[ReferableBin(0.0, 0.2, 10, 0.1, 0.0, None), ReferableBin(0.2, 0.9, 10, 0.4, 0.3, (0.2, 0.45))],
)
BENEFIT = NetBenefit(
    prevalence=0.1,
    thresholds=[0.02, 0.1, 0.5],
    net_benefit=[0.09, 0.05, -0.01],
    refer_all=[0.08, 0.0, -0.8],
    gain=[0.01, 0.05, -0.01],
    intervals={"net_benefit": [(0.08, 0.1), (0.04, 0.06), None]},
)
OF_SITE: dict[str, Any] = {
    "photographs": 100,
    "grades": [60, 10, 20, 5, 5],
    "kappa": 0.7,
    "referable_auc": None,
    "intervals": {"kappa": [0.6, 0.8], "referable_auc": None},
    "operating": CARD
    | {"sensitivity": 0.9, "specificity": 1.0, "intervals": {"sensitivity": [0.8, 0.95], "specificity": None}},
}
SITE = Site("clinic", recorded(**OF_SET, **OF_SITE, scale=["messidor", False]))
FIGURES: dict[str, Callable[[Path], None]] = {
    "accuracy": lambda path: draw_accuracy(path, TABLE, title="run", kept=2, majority=70.0),
    "confusion": lambda path: draw_confusion(path, np.arange(25).reshape(5, 5), title="run"),
    "comparison": lambda path: draw_comparison(path, {"a": ("resnet18", True, TABLE), "b": ("resnet50", False, TABLE)}),
    "roc": lambda path: draw_roc(path, TRUTH, SCORE, roc_auc_score(TRUTH, SCORE), POINT, **OF),
    "precision_recall": lambda path: draw_precision_recall(path, TRUTH, SCORE, POINT, **OF),
    "forest": lambda path: draw_forest(path, [SITE] * 9, title="run"),
    "reliability": lambda path: draw_reliability(path, BINS, 0.1, title="run"),
    "referable_calibration": lambda path: draw_referable_calibration(path, CALIBRATION, counts=COUNTS, title="run"),
    "decision_curve": lambda path: draw_decision_curve(path, BENEFIT, title="run"),
}


def words(svg: Path) -> str:
    """Letters are drawn as outlines; what they say stands beside them, in comments."""
    return " ".join(re.findall(r"<!-- (.*?) -->", svg.read_text(), re.DOTALL))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_png_and_svg_and_the_same_each_time(name: str, tmp_path: Path) -> None:
    digests = []
    for attempt in ("once", "again"):
        path = tmp_path / attempt / f"{name}.png"
        path.parent.mkdir()
        FIGURES[name](path)
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert max(image.size) >= 1100  # fills a slide without blur
        assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")
        files = sorted(path.parent.iterdir())
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2
    assert "<dc:date>" not in (tmp_path / "once" / f"{name}.svg").read_text()


@pytest.mark.parametrize("name", FIGURES)
def test_its_letters_can_be_read_from_the_back_of_a_room(name: str, tmp_path: Path) -> None:
    """As large as fits on a slide of 13.33 x 7.5 inches, no letter is smaller than 12 points, and a lone panel's 14."""
    FIGURES[name](tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        inches = np.array(image.size) / STYLE["savefig.dpi"]
    scale = min(np.array([13.33, 7.5]) / inches)
    assert STYLE["font.size"] * scale >= (12 if name == "comparison" else 14)


def test_a_curve_names_its_area_and_its_operating_point(tmp_path: Path) -> None:
    FIGURES["roc"](tmp_path / "roc.png")
    said = words(tmp_path / "roc.svg")
    assert f"AUC {roc_auc_score(TRUTH, SCORE):.3f}" in said
    assert "operating point: sensitivity 90 %" in said
    FIGURES["precision_recall"](tmp_path / "pr.png")
    assert f"referring everybody: PPV {100 * TRUTH.mean():.0f} %" in words(tmp_path / "pr.svg")
    for name in ("roc", "pr"):
        for text in ("300 photographs, 90 referable", "150 patients", "95 % interval at each point"):
            assert text in words(tmp_path / f"{name}.svg")


def test_the_curves_of_referable_say_what_they_are_of(tmp_path: Path) -> None:
    FIGURES["referable_calibration"](tmp_path / "calibration.png")
    assert "slope 0.900, intercept -0.100" in words(tmp_path / "calibration.svg")
    FIGURES["decision_curve"](tmp_path / "benefit.png")
    for text in ("where 10.0 % are referable", "referring everybody", "referring nobody", "the network"):
        assert text in words(tmp_path / "benefit.svg")


def test_a_slope_that_cannot_be_estimated_is_not_drawn(tmp_path: Path) -> None:
    known = replace(CALIBRATION, slope=None, intercept=None)
    draw_referable_calibration(tmp_path / "figure.png", known, counts=COUNTS, title="run")
    assert "share of each bin" in words(tmp_path / "figure.svg")
    assert "slope" not in words(tmp_path / "figure.svg")


def test_a_forest_plot_names_each_set_with_its_figures_and_what_is_not_defined(tmp_path: Path) -> None:
    own = Site("own test part", recorded(**OF_SITE))
    draw_forest(tmp_path / "forest.png", [own, SITE], title="run")
    said = words(tmp_path / "forest.svg")
    for text in ("own test part", "clinic", "n = 100, 30 % referable", "0.70 (0.60 to 0.80)", "0.90 (0.80 to 0.95)"):
        assert text in said
    assert said.count("not defined") == 2
    assert "dashed: the run's own test part; open: grades on another scale, not to be compared" in said


def test_curves_need_no_operating_point(tmp_path: Path) -> None:
    draw_roc(tmp_path / "roc.png", TRUTH, SCORE, 0.8, None, **OF)
    draw_precision_recall(tmp_path / "pr.png", TRUTH, SCORE, POINT._replace(ppv=None), **OF)
    assert "operating" not in words(tmp_path / "roc.svg") + words(tmp_path / "pr.svg")


def test_scores_that_tie_make_a_curve_of_one_step(tmp_path: Path) -> None:
    draw_roc(tmp_path / "roc.png", TRUTH, np.full(300, 0.2), 0.5, None, **OF)
    draw_precision_recall(tmp_path / "pr.png", TRUTH, np.full(300, 0.2), None, **OF)
    assert "nan" not in (tmp_path / "roc.svg").read_text() + (tmp_path / "pr.svg").read_text()


@pytest.mark.parametrize("title", ["$x_1$ \\frac <b> & --> %", "網膜 сетчатка", "$"])
def test_any_name_of_a_run_can_be_a_title(title: str, tmp_path: Path) -> None:
    draw_confusion(tmp_path / "figure.png", np.eye(5, dtype=np.int64), title=title)
    ElementTree.parse(tmp_path / "figure.svg")


def test_runs_of_one_epoch_are_seen_in_a_comparison_at_epoch_1(tmp_path: Path) -> None:
    draw_comparison(tmp_path / "compare.png", {"a": ("resnet18", False, TABLE[:1])})
    svg = (tmp_path / "compare.svg").read_text()
    points = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="[\d.]+" style="fill: #d55e00', svg)
    assert len(points) == 3  # accuracy on train and validation, and kappa, in the first colour from scratch
    below = svg.split('id="matplotlib.axis_3"')[1].split('id="matplotlib.axis_4"')[0]
    assert re.findall(r"<!-- ([\d.]+) -->", below) == ["1"]  # below the epochs' axis


@pytest.mark.parametrize("n", [1, 3, 4, 12])
def test_each_run_of_a_comparison_has_its_own_colour(n: int, tmp_path: Path) -> None:
    runs = {
        f"{weights}-{run}": ("resnet18", weights == "auto", TABLE) for weights in ("auto", "none") for run in range(n)
    }
    draw_comparison(tmp_path / "compare.png", runs)
    keys = re.findall(r"stroke: (#\w{6}); stroke-width: 5;", (tmp_path / "compare.svg").read_text())
    assert len(keys) == len(set(keys)) == 2 * n


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn so far; `draw_without_rendering` gives extents at their own resolution."""
    figures: list[Figure] = []
    monkeypatch.setattr(
        "trainer.reporting.drawings.Figure", lambda **settings: figures.append(Figure(**settings)) or figures[-1]
    )
    return figures


def test_no_words_lie_on_the_curves_of_accuracy_whatever_they_do(tmp_path: Path, drawn: list[Figure]) -> None:
    table = TABLE.assign(acc_test=TABLE["acc_val"], phase=["head", "finetune", "finetune"])
    draw_accuracy(tmp_path / "accuracy.png", table, title="run", kept=2, majority=float(table["acc_train"].max()))
    drawn[0].draw_without_rendering()
    upper, lower = drawn[0].axes
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("train (augmented)", "validation", "test (not used to choose)", "majority grade (1.0 % of validation)"),
        *("kept: epoch 2", "last layer alone"),
    ]
    assert legend.get_window_extent().y1 < lower.xaxis.label.get_window_extent().y0
    assert legend.get_window_extent().x0 >= 0
    assert legend.get_window_extent().x1 <= drawn[0].bbox.x1
    assert not [*upper.texts, *lower.texts]
    assert upper.get_window_extent().height > 300


@pytest.mark.parametrize("n", [1, 12])
def test_the_runs_of_a_comparison_are_named_below_the_word_epoch(n: int, tmp_path: Path, drawn: list[Figure]) -> None:
    draw_comparison(tmp_path / "compare.png", {f"run-{run}": ("resnet18", True, TABLE) for run in range(n)})
    drawn[0].draw_without_rendering()
    accuracy, kappa = drawn[0].axes
    legend = kappa.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y1 < kappa.xaxis.label.get_window_extent().y0
    assert legend.get_window_extent().y0 >= 0
    assert accuracy.get_window_extent().height > 300  # pixels, at 100 an inch: legends leave the curves their room
    assert kappa.get_window_extent().height > 180


def test_kappa_stands_below_the_accuracy_of_each_model(tmp_path: Path, drawn: list[Figure]) -> None:
    tables = {f"run-{n}": (f"model-{n % 5}", True, TABLE.assign(kappa_val=[0.1, 0.2, 0.1 * n])) for n in range(5)}
    draw_comparison(tmp_path / "compare.png", tables)
    shown = [panel for panel in drawn[0].axes if panel.get_visible()]
    assert len(shown) == 10
    last = [[line.get_ydata()[-1] for line in panel.lines if len(line.get_ydata())] for panel in shown]
    assert [0.1 * n in heights for n, heights in enumerate(last[3:6])] == [True] * 3  # the second row of panels
    assert "validation kappa" in words(tmp_path / "compare.svg")


def test_a_share_of_few_photographs_has_a_wide_interval(tmp_path: Path) -> None:
    none, some, all_right = Bin(0.0, 0.5, 0, None, None), Bin(0.5, 0.8, 40, 0.7, 0.25), Bin(0.8, 1.0, 3, 0.9, 1.0)
    draw_reliability(tmp_path / "reliability.png", [none, some, all_right], 0.1, title="run")
    svg = (tmp_path / "reliability.svg").read_text()
    assert "95 % interval" in words(tmp_path / "reliability.svg")

    def ends(path: str) -> list[float]:
        """Heights where a path begins and ends, in points downwards."""
        return [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]

    before, after = svg.split('id="LineCollection_1"')
    zero, one = ends(re.findall(r'<path d="([^"]*)"', before)[-1])  # the diagonal
    bars = re.findall(r'<path d="([^"]*)"', after.split("</g>")[0])
    limits = np.array([[(zero - y) / (zero - one) for y in ends(bar)] for bar in bars])
    # Of 3 right ones of 3 the lower bound L has L^3 = 0.025. Of 10 of 40, to three places, tables have 0.127 and 0.412.
    assert limits == pytest.approx(np.array([[0.127, 0.412], [0.025 ** (1 / 3), 1.0]]), abs=0.002)


def test_a_name_as_long_as_a_folder_may_have_leaves_room_for_the_figure(tmp_path: Path) -> None:
    assert short_name("line 1\nline 2") == "line 1 line 2"
    assert short_name("a" * 300 + "b") == "…" + "a" * 30 + "b"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of axes that have collapsed to nothing
        draw_confusion(
            tmp_path / "x.png", np.eye(5, dtype=np.int64), title=f"{short_name('W' * 255)}, {short_name('W' * 255)}"
        )
