"""The two decision rules of a network that takes the other eye into account: one threshold decides as both do."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.photos.preparation import Recipe
from trainer.evaluation.ensembles import Members, describe_members
from trainer.network.decision import DecisionRule
from trainer.network.metadata import FittedRule, Metadata, Operating

METADATA = Metadata("resnet18", 32, Recipe(), epoch=1, fellow=FittedRule())


def operating(threshold: float, temperature: float = 1.0) -> Operating:
    return Operating(temperature, threshold, "sensitivity", 0.9)


@pytest.mark.parametrize("alone", [3e-9, 3e-8, 0.2, 0.7])
@pytest.mark.parametrize("with_fellow", [3e-9, 3e-8, 0.4])
def test_one_threshold_on_scores_decides_as_each_rule_does(alone: float, with_fellow: float) -> None:
    rule = DecisionRule(threshold=alone, fellow=DecisionRule(threshold=with_fellow))
    p = np.array([1e-10, 2e-8, 4e-8, 1e-3, 0.1, 0.39, 0.41, 0.69, 0.71, 1 - 1e-7, 1.0])
    for paired, threshold in ((True, with_fellow), (False, alone)):
        scores = rule.referral_scores(p, np.full(len(p), paired))
        assert ((scores >= alone) == (p >= threshold)).all()
        assert (np.diff(scores) >= 0).all()


def test_a_member_without_a_rule_for_both_eyes_has_its_temperature_for_one() -> None:
    """The rule for one eye decides for all photographs of that run, and so it does in an ensemble."""
    one = replace(METADATA, operating=operating(0.3, 1.7))
    two = replace(one, fellow=FittedRule(operating(0.4, 2.5)))
    described = describe_members(Members([], [], [one, two], [None, None], None))
    assert [each.temperature for each in described.members] == [1.7, 1.7]
    assert [each.fellow_temperature for each in described.members] == [1.7, 2.5]
