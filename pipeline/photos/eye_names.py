"""The patient and the eye in a photograph's file name, as public data sets write them."""

import re
from typing import Final, NamedTuple

from pipeline.photos.discovery import split_suffix
from pipeline.photos.formats import SUFFIXES

_COPY: Final = r"(?:[-_ ].*)?"
CONVENTIONS: Final = (
    # EyePACS, and copies of its photographs: 17_left, 17_left-600-FA, 17_left_aug1
    ("17_left", re.compile(rf"^(?P<patient>.+?)[_\- ](?P<eye>left|right){_COPY}$", re.IGNORECASE)),
    ("P001_OD", re.compile(rf"^(?P<patient>.+?)[_\- ](?P<eye>OD|OS){_COPY}$", re.IGNORECASE)),
    ("IMG_17_R", re.compile(r"^(?P<patient>.+?)[_\- ](?P<eye>R|L|RE|LE)$", re.IGNORECASE)),
    ("1_l1", re.compile(r"^(?P<patient>\d+)_(?P<eye>[lr])\d+$", re.IGNORECASE)),  # DeepDRiD
    ("12.3", re.compile(r"^(?P<patient>\d+)\.\d+$")),  # mBRSET
)
"""(example, pattern) of each convention. Each pattern has the group `patient`, and all but the last have `eye`. The
first convention applies to each name that it fits. The others apply only if they fit all names of a data set."""
EYE_WORDS: Final = {
    **dict.fromkeys(
        ("left", "l", "os", "le", "left eye", "oi", "oe", "og", "izquierdo", "esquerdo", "links", "gauche", "sinistra"),
        "left",
    ),
    **dict.fromkeys(
        ("right", "r", "od", "re", "right eye", "derecho", "direito", "rechts", "droit", "destra"), "right"
    ),
}
"""Words for an eye (English, Latin, Spanish, Portuguese, German, French, Italian) -> "left" or "right"."""


class EyeName(NamedTuple):
    """The patient and the eye in a photograph's name; "" for what the name does not say."""

    patient: str
    eye: str  # "left" or "right"


def eye_name(id: str) -> EyeName:
    """The patient and the eye in a photograph's id or path, by the first convention that fits its last part.

    >>> eye_name("train/17_left.jpeg"), eye_name("P001_OD"), eye_name("scan")
    (EyeName(patient='17', eye='left'), EyeName(patient='P001', eye='right'), EyeName(patient='', eye=''))
    """
    name = last_part(id)
    for _, regex in CONVENTIONS:
        if match := regex.match(name):
            groups = match.groupdict()
            return EyeName(groups["patient"], EYE_WORDS[groups["eye"].casefold()] if groups.get("eye") else "")
    return EyeName("", "")


def last_part(id: str) -> str:
    """The last part of an id, without a suffix. An id has a suffix if two photographs differ only in it."""
    name = id.rpartition("/")[2]
    stem, suffix = split_suffix(name)
    return stem if suffix.lower() in SUFFIXES else name
