"""The decision for a photograph, in the words of the page."""

from pipeline.grades import REFERABLE
from trainer.inference.predictions import UNSURE, reasons
from trainer.inference.predictor import Prediction
from trainer.reporting.page import number


def decision(prediction: Prediction, share: float) -> tuple[str, str, str]:
    """What to do with a photograph: (kind, headline, reason). The kind is "refer", "keep" or "human".

    share: a photograph is left to a human if it is less sure than all but this share of the validation photographs.
    """
    p, referable, threshold = prediction.p_referable, prediction.referable, prediction.rule.threshold
    which = "at or above" if referable else "below"
    why = f"Grade 2 or worse has a probability of {percent(p)}, {which} the threshold of {percent(threshold)}."
    if referable != (prediction.grade >= REFERABLE):
        why += " The predicted grade alone would say otherwise."
    if left := reasons(prediction, share):
        reason = "The network is unsure here." if left == (UNSURE,) else "No decision should rest on this picture."
        return "human", "For a person to decide", f"{reason} {why}"
    return ("refer", "Refer", why) if referable else ("keep", "Below the threshold: not referred", why)


def percent(fraction: float) -> str:
    """A probability or a threshold in percent. A value between 0 and 1 is never rounded to 0 or 100 %. A threshold
    above 1 refers nobody.

    >>> [percent(fraction).replace(chr(0xa0), " ") for fraction in (0.123, 0.0004, 0.99995, 1.5)]
    ['12.3 %', 'under 0.1 %', 'over 99.9 %', 'over 100 %']
    """
    if fraction > 1:
        return f"over {number(1, 'percent').replace('.0', '')}"
    if 0 < fraction < 0.0005:
        return f"under {number(0.001, 'percent')}"
    return f"over {number(0.999, 'percent')}" if 0.9995 <= fraction < 1 else number(fraction, "percent")
