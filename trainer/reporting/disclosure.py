"""What STARD, CLAIM and TRIPOD+AI ask a report to state besides the figures: warnings, patients, dates, graders."""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.cache.cache import Cache
from pipeline.cache.manifest import flagged
from pipeline.cache.splits import known_patients
from pipeline.storage.url import path_or_url
from trainer.config import RunConfig
from trainer.reporting.external import Site
from trainer.reporting.measured import Measured
from trainer.reporting.narrative import DRAWN, EACH_COUNTS, LeakStatement
from trainer.reporting.tables import counted
from trainer.run_folder import set_name, today

GRADERS: Final = (
    "How far people agree: the graders of Thailand's national screening programme reached a quadratic weighted kappa "
    "of 0.78 against a panel of retina specialists, on 25,326 photographs (Ruamviboonsuk et al., npj Digital Medicine "
    "2019, doi 10.1038/s41746-019-0099-8). Panels of three retina specialists, who discussed until they agreed, "
    "reached 0.92 to 0.96 against another such panel, on 499 photographs (Schaekermann et al., Translational Vision "
    "Science and Technology 2019, doi 10.1167/tvst.8.6.40). Those are other photographs: they help to judge the kappa "
    "here, and are no pass mark."
)
REFERABLE_MEANS: Final = (
    "Referable here is grade 2 (moderate) or worse, and knows nothing of macular oedema. An eye of grade 0 or 1 with "
    "macular oedema needs an ophthalmologist too, and is not found here."
)
NOT_RECORDED: Final = "not recorded"
UNKNOWN_PATIENTS: Final = f"The patients of the photographs measured are not known. {EACH_COUNTS}"


def warnings(leak: LeakStatement, no_patient_known: bool, synthetic: str, sites: Sequence[Site]) -> list[str]:
    """The warnings at the top of the page: a leak, unknown patients, synthetic photographs.

    no_patient_known: of the photographs measured. synthetic: of `synthetic_line`.
    """
    lines = [leak.text] if leak.alarm else []
    if no_patient_known:
        lines.append(UNKNOWN_PATIENTS)
    if synthetic:
        lines.append(synthetic)
    marks = ("LEAK: ", "SYNTHETIC: ")
    of_sites = [line for site in sites for line in site.lines]
    return lines + [line for line in of_sites if any(f": {mark}" in line for mark in marks)]


def synthetic_photographs(config: RunConfig, cache: Cache | None) -> dict[str, tuple[int, int]]:
    """split -> (synthetic photographs, all photographs), for splits with synthetic ones. Read from config.json if there
    is no cache."""
    drawn = dict(config.synthetic)
    if cache:
        flags = flagged(cache.manifest, "synthetic").to_numpy()
        drawn = {split: int(flags[cache.rows(split)].sum()) for split in config.photographs}
    return {split: (n, config.photographs[split]) for split, n in drawn.items() if n}


def synthetic_line(drawn: Mapping[str, tuple[int, int]], measured: str) -> str:
    """A warning of synthetic photographs; "" if there are none.

    drawn: of `synthetic_photographs`. measured: the split that was measured.
    """
    if not drawn:
        return ""
    counts = ", ".join(f"{n:,} of {total:,} {split}" for split, (n, total) in drawn.items())
    line = f"SYNTHETIC: {counts} {DRAWN}"
    if measured in drawn:
        return f"{line} The figures say nothing of real eyes."
    return f"{line} The network learned from them; the photographs measured are others."


def unknown_patients(measured: Measured) -> int:
    """The number of photographs measured whose patient is unknown; 0 without the cache, which alone names patients."""
    if measured.cache is None:
        return 0
    manifest = measured.cache.manifest
    return int((~known_patients(manifest))[manifest["id"].isin(measured.predictions["id"])].sum())


def people(patients: int, unknown: int, photographs: int) -> str:
    """The patients of the photographs measured, as words that follow the number of photographs.

    unknown: number of photographs whose patient is unknown.

    >>> people(8, 0, 16), people(16, 16, 16)
    (' of 8 patients', ', whose patients are not known')
    """
    if unknown == photographs:
        return ", whose patients are not known"
    who = f" of {counted(patients, 'patient')}"
    if not unknown:
        return who
    return f"{who}, where {unknown:,} photographs of unknown patients count as one patient each"


def data_set(config: RunConfig, cache: Cache | None) -> str:
    """The name of the data set, if it is a known one, else of the cache's folder."""
    known = config.data_set or (cache.index.data_set if cache else "")
    if known:
        return known
    return f"{set_name(path_or_url(config.cache))} (the name of its folder; no known set was recognised)"


def dates(measured: Measured) -> dict[str, str]:
    """The days of training, of the measurement and of the page: "trained", "measured", "page" -> YYYY-MM-DD, UTC."""
    noted = measured.run.read_dates()
    return {
        "trained": noted.get("trained", NOT_RECORDED),
        "measured": noted.get(f"measured {measured.split}", NOT_RECORDED),
        "page": today(),
    }
