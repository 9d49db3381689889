"""MedMNIST's RetinaMNIST: one NPZ file with pictures, grades and splits."""

from pathlib import Path

import numpy as np

from pipeline.cache.splits import SPLITS
from pipeline.errors import SourceError
from pipeline.grades import N_GRADES
from pipeline.photos.discovery import Found, Refusal
from tools.sources import archives
from tools.sources.known_sets import known_set_of, other_counts
from tools.sources.listing import ListedSample, Listing


def list_medmnist(path: Path) -> Listing:
    """The listing of a RetinaMNIST file. Raises SourceError if it is another file."""
    known = known_set_of(path.name, [])
    if known is None and "mnist" in path.name.casefold():
        raise SourceError(f"{path}: of MedMNIST's files only retinamnist.npz has grades of diabetic retinopathy")
    stat = path.stat()
    arrays = archives.medmnist_arrays(str(path), stat.st_mtime_ns)
    listing = Listing(path.parent, f"a MedMNIST file, {path.name}")
    for split in SPLITS:
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if images is None or labels is None or len(images) != len(labels) or images.dtype != np.uint8:
            raise SourceError(f"{path}: expected {split}_images (uint8) and as many {split}_labels, as in MedMNIST")
        for number, label in enumerate(labels.reshape(len(labels), -1)[:, 0]):
            source = f"{path.name}#{split}/{number}"
            if not 0 <= int(label) < N_GRADES:
                listing.refused.append(Refusal(source, f"grade {label} is not in 0..{N_GRADES - 1}"))
                continue
            file = Found(source, int(images[number].nbytes), stat.st_mtime_ns, stat.st_ctime_ns)
            listing.samples.append(ListedSample(f"{split}_{number}", file, int(label), split))
    if known is not None:
        listing.data_set = known.title
        listing.notes += other_counts([(known, sample.grade) for sample in listing.samples])
    return listing
