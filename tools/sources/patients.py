"""The patient and the eye of a photograph, from columns, tables of pairs, or names."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from pipeline.cache.splits import parse_patient
from pipeline.photos.discovery import split_suffix
from pipeline.photos.eye_names import CONVENTIONS, EYE_WORDS, eye_name, last_part
from tools.sources.columns import split_in_name
from tools.sources.listing import ListedSample
from tools.sources.matching import slashed

IN_FOLDERS: Final = re.compile(r"^(?:.*/)?(?P<patient>[^/]+)/(?P<eye>left|right|OD|OS|RE|LE|R|L)/[^/]+$", re.IGNORECASE)
"""P001/OD/1.jpg, where all photographs lie so."""
_VISIT: Final = re.compile(
    r"(?:[_\- ](?:19|20)\d\d(?:[_\-]?\d\d){0,2}|(?:^|[_\- ])(?:(?:visit|followup|baseline)[_\-]?\d*|(?:v|t|fu)\d+))$",
    re.IGNORECASE,
)
"""At the end of a patient's name: a date or a visit."""
ALONE: Final = 8
"""Photographs that a lone patient may have."""
TOO_MANY: Final = 20
"""Photographs a patient, on average, from which on a way to name patients is not believed: IMG_left_001 names none."""


class Told(NamedTuple):
    """Samples with patients and eyes, and what is to be said of it."""

    samples: list[ListedSample]
    how: str  # "" where nothing told
    notes: list[str]


def with_patients(
    samples: Sequence[ListedSample],
    pattern: str | None,
    pairs: Mapping[str, tuple[str, str]],
    tags: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Told:
    """The samples with patient and eye where something tells them.

    A pattern that the user gave comes first, then columns, then pairs (source -> patient, eye), then tags of DICOM
    files (likewise), then the usual ways to name photographs. Where a column leaves cells empty, names fill them as far
    as they say the same as the column.
    """
    if pattern is None and pairs and not any(sample.patient for sample in samples):
        told = Told([_of_source(sample, pairs) for sample in samples], "a table of pairs", [])
    else:
        eyes = {source: ("", eye) for source, (_, eye) in tags.items()}
        samples = [_of_source(sample, eyes) for sample in samples] if tags else samples
        if pattern is not None:
            told = _by_pattern(samples, re.compile(pattern))
        elif any(sample.patient for sample in samples):
            told = _by_column(samples)
        else:
            tagged = {source for source, (patient, _) in tags.items() if patient}
            told = _by_names([sample for sample in samples if sample.file.source not in tagged])
            named = {sample.file.source: sample for sample in told.samples}
            told = told._replace(samples=[named.get(sample.file.source, sample) for sample in samples])
    return told._replace(samples=[_of_source(sample, tags) for sample in told.samples]) if tags else told


def _by_pattern(samples: Sequence[ListedSample], pattern: re.Pattern[str]) -> Told:
    told = []
    for sample in samples:
        patient, eye = parse_patient(sample.id, pattern)
        if patient == sample.id:
            path = split_suffix(slashed(sample.file.source))[0]
            by_path, eye = parse_patient(path, pattern)
            patient = sample.patient if by_path == path else by_path
        told.append(sample._replace(patient=patient, eye=EYE_WORDS.get(eye.casefold(), "") or sample.eye))
    return Told(told, "--patient-pattern", [])


def _by_column(samples: Sequence[ListedSample]) -> Told:
    notes: list[str] = []
    by_name = [eye_name(sample.id) for sample in samples]
    spelled: dict[str, str] = {}
    for sample in samples:
        spelled.setdefault(sample.patient.casefold(), sample.patient)
    named: dict[str, set[str]] = defaultdict(set)  # patient by the name -> patients by the column
    for sample, (patient, _) in zip(samples, by_name, strict=True):
        if patient and sample.patient:
            named[patient].add(spelled[sample.patient.casefold()])
    fills = all(len(patients) == 1 for patients in named.values())
    told, contradict = [], 0
    for sample, (patient, eye) in zip(samples, by_name, strict=True):
        known = spelled[sample.patient.casefold()]
        if not known and fills and patient in named:
            known = next(iter(named[patient]))
        contradict += bool(sample.eye and eye and sample.eye != eye)
        told.append(sample._replace(patient=known, eye=sample.eye or eye))
    if blank := sum(not sample.patient for sample in told):
        notes.append(f"the column of patients is empty for {blank} photographs: each counts as a patient of its own")
    if len({sample.patient for sample in samples}) > len(spelled):
        notes.append("patients whose names differ in capital letters alone are taken for one")
    if contradict:
        notes.append(f"the name of {contradict} photographs tells another eye than their column, which is taken")
    return Told(told, "a column", notes)


def _by_names(samples: Sequence[ListedSample]) -> Told:
    names = [last_part(sample.id) for sample in samples]
    for example, regex in CONVENTIONS:
        matches = [regex.match(name) for name in names]
        if any(matches) and (all(matches) or regex is CONVENTIONS[0][1]):
            return _matched(samples, matches, f"names like {example}")
    matches = [IN_FOLDERS.match(slashed(sample.file.source)) for sample in samples]
    if samples and not any(match is None or split_in_name(match["patient"]) for match in matches):
        return _matched(samples, matches, "folders like P001/OD")
    return Told(list(samples), "", [])


def _matched(samples: Sequence[ListedSample], matches: Sequence[re.Match[str] | None], how: str) -> Told:
    """The samples whose name fits, with what it says."""
    patients = _without_visits([match["patient"] if match else "" for match in matches])
    known = Counter(patient for patient in patients if patient)
    count = sum(known.values())
    if count > TOO_MANY * len(known) or (len(known) == 1 and count > ALONE):
        why = f"{how} would make {len(known)} patients of {count} photographs, such as {next(iter(known), '')!r}"
        return Told(list(samples), "", [f"{why}: not believed; --patient-pattern says how names tell patients"])
    told = []
    for sample, match, patient in zip(samples, matches, patients, strict=True):
        if match is not None:
            id, file, grade, split, _, eye, ungradable, kept = sample
            eye = eye or (EYE_WORDS[match["eye"].casefold()] if "eye" in match.re.groupindex else "")
            sample = ListedSample(id, file, grade, split, patient, eye, ungradable, kept)
        told.append(sample)
    first = next(at for at, match in enumerate(matches) if match is not None)
    notes = [f"patients by {how}: {samples[first].id} shows patient {told[first].patient or 'of its folder'}"]
    return Told(told, how, notes)


def _without_visits(patients: list[str]) -> list[str]:
    """The names without a date or a visit at their end, where that makes one patient of several: 7_2019 and 7_2021.

    A name that is nothing else becomes empty: its folder is the patient.
    """
    short = [_VISIT.sub("", patient) for patient in patients]
    return short if len({*short}) < len({*patients}) else patients


def _of_source(sample: ListedSample, known: Mapping[str, tuple[str, str]]) -> ListedSample:
    """The sample with the patient and the eye that are known of its source, where it has none."""
    patient, eye = known.get(sample.file.source, ("", ""))
    return sample._replace(patient=sample.patient or patient, eye=sample.eye or eye)
