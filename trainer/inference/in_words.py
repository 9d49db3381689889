"""The prediction for one photograph in sentences, for a person."""

from pathlib import Path
from typing import Final

from pipeline.grades import GRADES
from trainer.inference.predictor import Prediction
from trainer.network.image_statistics import FLAG

GRADE_NAMES: Final = (GRADES[0], *(f"{name} DR" for name in GRADES[1:]))
SENTENCES: Final = {
    "blank": "It is black, white, flat or too dark to be graded; the grade means nothing.",
    "burned_in": "Words are drawn into the picture; they may name the patient.",
    "damaged": "The file holds corrupt data; part of the picture may be wrong.",
    "first_page": "The file holds more pictures; the first one was graded.",
    "no_disc": "No round retina was found, so the whole picture was graded; it may be no fundus photograph.",
    "overexposed": "Half of the retina is nearly white; lesions may not be seen.",
    "synthetic": "It is a drawn eye, not a photograph.",
    "ungradable": "The data set says that it cannot be graded.",
    "wide_field": "It is an ultra-wide-field photograph; the grade is meant for ordinary ones.",
    "widened": "Light outside the round retina was kept; the retina may have been found wrongly.",
    f"{FLAG}brightness": "It is much darker or brighter than the training photographs.",
    f"{FLAG}colour": "Its colours are unlike those of the training photographs.",
    f"{FLAG}no_disc": "The training photographs show a round retina, and this one does not.",
    f"{FLAG}radius": "The retina fills another part of the picture than in the training photographs.",
    f"{FLAG}sharpness": "It is much less or more sharp than the training photographs.",
    f"{FLAG}size": "It has far fewer or more pixels than the training photographs.",
}
"""By flag; see pipeline.photos.preparation.Prepared and trainer.network.image_statistics.TrainingStatistics.unlike."""


def in_words(prediction: Prediction) -> list[str]:
    """Lines: the grade and whether to refer, the five probabilities, and a sentence for each flag."""
    grade, p, threshold = prediction.grade, prediction.p_referable, prediction.rule.threshold
    referred = "yes" if prediction.referable else "no"
    digits = next((n for n in (2, 3, 4) if f"{p:.{n}f}" != f"{threshold:.{n}f}"), 6)  # equal figures would explain none
    listed = ", ".join(f"{name} {each:.2f}" for name, each in zip(GRADES, prediction.probabilities, strict=True))
    return [
        f"{Path(prediction.photograph.source).name}: grade {grade}, {GRADE_NAMES[grade]} "
        f"(p {prediction.probabilities[grade]:.2f}); "
        f"referable: {referred} (p {p:.{digits}f}, threshold {threshold:.{digits}f})",
        f"probabilities: {listed}",
        *(f"note: {SENTENCES.get(flag, f'It is flagged {flag}.')}" for flag in prediction.flags),
    ]
