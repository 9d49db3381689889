"""Whose photograph it is: the patient and the eye, from columns, from tables of pairs, or from names."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.cache.splits import parse_patient
from pipeline.photos.discovery import split_suffix
from pipeline.photos.photo import SUFFIXES
from tools.sources.columns import EYE_WORDS
from tools.sources.listing import Sample

_COPY: Final = r"(?:[-_ ].*)?"
CONVENTIONS: Final = (
    # EyePACS, and copies of its photographs: 17_left, 17_left-600-FA, 17_left_aug1
    ("17_left", re.compile(rf"^(?P<patient>.+?)[_\- ](?P<eye>left|right){_COPY}$", re.IGNORECASE)),
    ("P001_OD", re.compile(rf"^(?P<patient>.+?)[_\- ](?P<eye>OD|OS){_COPY}$", re.IGNORECASE)),
    ("IMG_17_R", re.compile(r"^(?P<patient>.+?)[_\- ](?P<eye>R|L|RE|LE)$", re.IGNORECASE)),
    ("1_l1", re.compile(r"^(?P<patient>\d+)_(?P<eye>[lr])\d+$", re.IGNORECASE)),  # DeepDRiD
    ("12.3", re.compile(r"^(?P<patient>\d+)\.\d+$")),  # mBRSET
)
"""How public sets name patient and eye. The first is taken for every name that it fits, the others only where one of
them fits all names."""


def with_patients(
    samples: Sequence[Sample], pattern: str | None, pairs: Mapping[str, tuple[str, str]]
) -> tuple[list[Sample], str]:
    """The samples with patient and eye where something tells them, and what told, in words.

    A pattern that the user gave comes first, then columns, then pairs (source -> patient, eye), then the usual
    conventions of names.
    """
    if pattern is not None:
        regex = re.compile(pattern)
        told = []
        for sample in samples:
            patient, eye = parse_patient(sample.id, regex)
            told.append(
                sample._replace(
                    patient=patient if patient != sample.id else sample.patient,
                    eye=EYE_WORDS.get(eye.casefold(), "") or sample.eye,
                )
            )
        return told, "--patient-pattern"
    if any(sample.patient for sample in samples):
        by_name = [_parsed(sample.id) for sample in samples]
        return [
            sample._replace(eye=sample.eye or eye) for sample, (_, eye) in zip(samples, by_name, strict=True)
        ], "a column"
    if pairs:
        return [_paired(sample, pairs) for sample in samples], "a table of pairs"
    names = [_name(sample.id) for sample in samples]
    for example, regex in CONVENTIONS:
        matches = [regex.match(name) for name in names]
        if all(matches) or regex is CONVENTIONS[0][1]:
            if not any(matches):
                continue
            has_eye = "eye" in regex.groupindex
            told = []
            for sample, match in zip(samples, matches, strict=True):
                if match is not None:
                    id, found, grade, split, _, eye, ungradable, kept = sample
                    eye = eye or (EYE_WORDS[match["eye"].casefold()] if has_eye else "")
                    sample = Sample(id, found, grade, split, match["patient"], eye, ungradable, kept)
                told.append(sample)
            return told, f"names like {example}"
    return list(samples), ""


def _paired(sample: Sample, pairs: Mapping[str, tuple[str, str]]) -> Sample:
    if sample.found.source not in pairs:
        return sample
    patient, eye = pairs[sample.found.source]
    return sample._replace(patient=patient, eye=sample.eye or eye)


def _name(id: str) -> str:
    """The last part of an id, without the suffix that it has where only that tells two photographs apart."""
    name = id.rpartition("/")[2]
    stem, suffix = split_suffix(name)
    return stem if suffix.lower() in SUFFIXES else name


def _parsed(id: str) -> tuple[str, str]:
    """(patient, eye) by the first convention that fits, ("", "") where none does."""
    for _, regex in CONVENTIONS:
        if match := regex.match(_name(id)):
            groups = match.groupdict()
            return groups["patient"], EYE_WORDS[groups["eye"].casefold()] if groups.get("eye") else ""
    return "", ""
