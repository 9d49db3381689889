"""Each sentence on p(referable) against figures that decide it."""

from typing import Any

import pytest

from trainer.evaluation.referable import BinaryCalibration, NetBenefit, Referable
from trainer.reporting.referable import benefit_lines, benefit_rows, calibration_lines


def referable(
    slope: Any = (0.8, 1.2), intercept: Any = (-0.1, 0.1), lacks: str | None = None, n: int = 20
) -> Referable:
    calibration = BinaryCalibration(
        slope=1.0,
        intercept=0.0,
        observed_expected=1.0,
        brier=0.1,
        intervals={"slope": slope, "intercept": intercept},
        lacks=lacks,  # type: ignore[arg-type]
        clip=1e-6,
        bins=[],
    )
    return Referable(
        photographs=100,
        patients=50,
        referable=n,
        roc=None,
        precision_recall=None,
        calibration=calibration,
        net_benefit=None,
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ["These photographs do not show that the probabilities are wrong."]),
        ({"slope": (0.5, 0.9)}, ["too extreme"]),
        ({"slope": (1.1, 2.0)}, ["too moderate"]),
        ({"intercept": (-1.0, -0.2)}, ["On the whole the probabilities are too high."]),
        ({"intercept": (0.2, 1.0)}, ["On the whole the probabilities are too low."]),
        ({"slope": (0.5, 0.9), "intercept": (0.2, 1.0)}, ["too extreme", "too low"]),
        ({"slope": None, "lacks": "separated"}, ["separates the referable photographs from the others completely"]),
        ({"slope": None, "lacks": "alike"}, ["the same for all photographs"]),
        ({"slope": None, "intercept": None, "lacks": "few"}, ["they need 10 patients"]),
        ({"slope": None, "intercept": None, "lacks": "few", "n": 0}, ["they need 10 patients", "there is no O:E"]),
        ({"slope": None}, ["The slope has no interval"]),
    ],
)
def test_calibration_in_words_follows_the_intervals(changed: dict[str, Any], said: list[str]) -> None:
    lines = calibration_lines(referable(**changed))
    assert len(lines) == len(said)
    assert all(words in line for words, line in zip(said, lines, strict=True))


def benefit(shown: list[int]) -> NetBenefit:
    """Better than referring all or none at these percentages."""
    thresholds = [n / 100 for n in range(2, 51)]
    gain = [(0.01, 0.03) if round(100 * t) in shown else (-0.01, 0.02) for t in thresholds]
    return NetBenefit(
        prevalence=None,
        thresholds=thresholds,
        net_benefit=[0.2 - t / 10 for t in thresholds],
        refer_all=[0.3 - t for t in thresholds],
        gain=[0.01] * 49,
        intervals={"net_benefit": [(0.1, 0.25)] * 49, "gain": gain},  # type: ignore[dict-item]
    )


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([], "At no threshold from 2 % to 50 % is it shown"),
        ([7], "At thresholds from 7 % to 7 %"),
        (list(range(5, 41)), "At thresholds from 5 % to 40 %"),
        ([5, 6, 20], "At 3 of 49 thresholds, between 5 % and 20 %,"),
    ],
)
def test_the_network_is_called_better_only_where_the_interval_of_the_gain_says_so(shown: list[int], said: str) -> None:
    assert said in benefit_lines(benefit(shown))[1].replace("\N{NO-BREAK SPACE}", " ")


def test_the_table_has_five_thresholds_and_what_a_right_referral_is_worth() -> None:
    rows = benefit_rows(benefit([]))
    assert [row.threshold for row in rows] == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert [row.per_right for row in rows] == pytest.approx([19, 9, 4, 7 / 3, 1])
    assert rows[1].net_benefit == pytest.approx(0.19)
    assert (
        "net benefit of the network is 0.190 (0.100 to 0.250), of referring everybody 0.200"
        in benefit_lines(benefit([]))[0]
    )
