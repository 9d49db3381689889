"""The patient and the eye of a photograph, from columns, tables of pairs, DICOM tags, or names."""

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
"""P001/OD/1.jpg; used only if it fits all photographs."""
_VISIT: Final = re.compile(
    r"(?:[_\- ](?:19|20)\d\d(?:[_\-]?\d\d){0,2}|(?:^|[_\- ])(?:(?:visit|followup|baseline)[_\-]?\d*|(?:v|t|fu)\d+))$",
    re.IGNORECASE,
)
"""A date or a visit at the end of a patient's name."""
MOST_OF_ONE: Final = 8
"""If names give only one patient, that patient may have this many photographs; if there are more, the names are not
believed."""
MOST_ON_AVERAGE: Final = 20
"""If patients by names have more photographs than this on average, the names are not believed: IMG_left_001 names no
patient."""


class PatientResult(NamedTuple):
    """Samples with patients and eyes."""

    samples: list[ListedSample]
    method: str  # where the patients come from, in words; "" if they are not known
    notes: list[str]  # for the user


def with_patients(
    samples: Sequence[ListedSample],
    pattern: str | None,
    pairs: Mapping[str, tuple[str, str]],
    tags: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> PatientResult:
    """The samples with patient and eye, as far as they are known.

    The first of these that is there is used: `pattern`, the user's regular expression for names; columns; `pairs`
    (source -> patient, eye); `tags` of DICOM files (likewise); the usual ways to name photographs. Empty cells of a
    column are filled from names, if names and column agree elsewhere.
    """
    if pattern is None and pairs and not any(sample.patient for sample in samples):
        result = PatientResult([_of_source(sample, pairs) for sample in samples], "a table of pairs", [])
    else:
        eyes = {source: ("", eye) for source, (_, eye) in tags.items()}
        samples = [_of_source(sample, eyes) for sample in samples] if tags else samples
        if pattern is not None:
            result = _by_pattern(samples, re.compile(pattern))
        elif any(sample.patient for sample in samples):
            result = _by_column(samples)
        else:
            tagged = {source for source, (patient, _) in tags.items() if patient}
            result = _by_names([sample for sample in samples if sample.file.source not in tagged])
            named = {sample.file.source: sample for sample in result.samples}
            result = result._replace(samples=[named.get(sample.file.source, sample) for sample in samples])
    return result._replace(samples=[_of_source(sample, tags) for sample in result.samples]) if tags else result


def _by_pattern(samples: Sequence[ListedSample], pattern: re.Pattern[str]) -> PatientResult:
    named = []
    for sample in samples:
        patient, eye = parse_patient(sample.id, pattern)
        if patient == sample.id:
            path = split_suffix(slashed(sample.file.source))[0]
            by_path, eye = parse_patient(path, pattern)
            patient = sample.patient if by_path == path else by_path
        named.append(sample._replace(patient=patient, eye=EYE_WORDS.get(eye.casefold(), "") or sample.eye))
    return PatientResult(named, "--patient-pattern", [])


def _by_column(samples: Sequence[ListedSample]) -> PatientResult:
    notes: list[str] = []
    by_name = [eye_name(sample.id) for sample in samples]
    spelled: dict[str, str] = {}
    for sample in samples:
        spelled.setdefault(sample.patient.casefold(), sample.patient)
    in_column: dict[str, set[str]] = defaultdict(set)  # patient by the name -> patients by the column
    for sample, (patient, _) in zip(samples, by_name, strict=True):
        if patient and sample.patient:
            in_column[patient].add(spelled[sample.patient.casefold()])
    names_agree = all(len(patients) == 1 for patients in in_column.values())
    completed, contradictions = [], 0
    for sample, (patient, eye) in zip(samples, by_name, strict=True):
        known = spelled[sample.patient.casefold()]
        if not known and names_agree and patient in in_column:
            known = next(iter(in_column[patient]))
        contradictions += bool(sample.eye and eye and sample.eye != eye)
        completed.append(sample._replace(patient=known, eye=sample.eye or eye))
    if blank := sum(not sample.patient for sample in completed):
        notes.append(f"the column of patients is empty for {blank} photographs: each counts as a patient of its own")
    if len({sample.patient for sample in samples}) > len(spelled):
        notes.append("patients whose names differ in capital letters alone are taken for one")
    if contradictions:
        notes.append(
            f"the names of {contradictions} photographs say another eye than their column; the column is taken"
        )
    return PatientResult(completed, "a column", notes)


def _by_names(samples: Sequence[ListedSample]) -> PatientResult:
    names = [last_part(sample.id) for sample in samples]
    for example, regex in CONVENTIONS:
        matches = [regex.match(name) for name in names]
        if any(matches) and (all(matches) or regex is CONVENTIONS[0][1]):
            return _matched(samples, matches, f"names like {example}")
    matches = [IN_FOLDERS.match(slashed(sample.file.source)) for sample in samples]
    if samples and not any(match is None or split_in_name(match["patient"]) for match in matches):
        return _matched(samples, matches, "folders like P001/OD")
    return PatientResult(list(samples), "", [])


def _matched(samples: Sequence[ListedSample], matches: Sequence[re.Match[str] | None], method: str) -> PatientResult:
    """The samples with the patient and the eye of the matches."""
    patients = _without_visits([match["patient"] if match else "" for match in matches])
    known = Counter(patient for patient in patients if patient)
    count = sum(known.values())
    if count > MOST_ON_AVERAGE * len(known) or (len(known) == 1 and count > MOST_OF_ONE):
        why = f"{method} would make {len(known)} patients of {count} photographs, such as {next(iter(known), '')!r}"
        return PatientResult(
            list(samples), "", [f"{why}: not believed; --patient-pattern says how to find patients in names"]
        )
    named = []
    for sample, match, patient in zip(samples, matches, patients, strict=True):
        if match is not None:
            eye = EYE_WORDS[match["eye"].casefold()] if "eye" in match.re.groupindex else ""
            sample = sample._replace(patient=patient, eye=sample.eye or eye)
        named.append(sample)
    first = next(at for at, match in enumerate(matches) if match is not None)
    notes = [f"patients by {method}: {samples[first].id} shows patient {named[first].patient or 'of its folder'}"]
    return PatientResult(named, method, notes)


def _without_visits(patients: list[str]) -> list[str]:
    """The names without a date or a visit at their end, if that joins patients, such as 7_2019 and 7_2021.

    A name that is only a date or a visit becomes empty: the folder is the patient.
    """
    short = [_VISIT.sub("", patient) for patient in patients]
    return short if len({*short}) < len({*patients}) else patients


def _of_source(sample: ListedSample, known: Mapping[str, tuple[str, str]]) -> ListedSample:
    """The sample; if it has no patient or no eye, with those in `known` (source -> patient, eye)."""
    patient, eye = known.get(sample.file.source, ("", ""))
    return sample._replace(patient=sample.patient or patient, eye=sample.eye or eye)
