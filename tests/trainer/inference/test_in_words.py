"""One photograph's prediction, as a person reads it."""

import ast
import inspect

import numpy as np
import pytest

from pipeline.photos import preparation
from trainer.inference.in_words import SENTENCES, in_words
from trainer.inference.inputs import Photograph, Ready
from trainer.inference.predictor import Prediction
from trainer.network.decision import DecisionRule
from trainer.network.image_statistics import FLAG, KIND


def unread(_: object) -> Ready:
    raise AssertionError


def words(p: list[float], threshold: float, *flags: str) -> list[str]:
    photograph = Photograph("17_left", "eyes/17_left.jpeg", unread)
    rule = DecisionRule(threshold=threshold)
    return in_words(Prediction(photograph, int(np.argmax(p)), np.array(p, np.float32), flags, rule))


def test_grade_probabilities_and_referral_are_said_in_words() -> None:
    assert words([0.05, 0.12, 0.71, 0.08, 0.04], 0.41) == [
        "17_left.jpeg: grade 2, moderate DR (p 0.71); referable: yes (p 0.83, threshold 0.41)",
        "probabilities: no DR 0.05, mild 0.12, moderate 0.71, severe 0.08, proliferative 0.04",
    ]
    assert words([0.9, 0.04, 0.03, 0.02, 0.01], 0.41)[0] == (
        "17_left.jpeg: grade 0, no DR (p 0.90); referable: no (p 0.06, threshold 0.41)"
    )


def test_a_probability_just_below_the_threshold_is_told_from_it() -> None:
    assert words([0.4, 0.192, 0.4, 0.006, 0.002], 0.412)[0].endswith("referable: no (p 0.408, threshold 0.412)")


def test_each_flag_is_a_sentence() -> None:
    lines = words([1, 0, 0, 0, 0], 0.5, "no_disc", f"{FLAG}colour", "of_tomorrow")
    assert lines[2].startswith("note: No round retina was found")
    assert lines[3] == "note: Its colours are unlike those of the training photographs."
    assert lines[4] == "note: It is flagged of_tomorrow."


@pytest.mark.parametrize("kind", [*KIND.values(), "no_disc"])
def test_all_that_is_unlike_training_has_its_sentence(kind: str) -> None:
    assert f"{FLAG}{kind}" in SENTENCES


def test_all_flags_of_the_recipe_have_their_sentences() -> None:
    tree = ast.parse(inspect.getsource(preparation.prepare))
    (flags,) = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    names = {key.value for key in flags.keys if isinstance(key, ast.Constant)}
    assert len(names) == 9
    assert names < SENTENCES.keys()
