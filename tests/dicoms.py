"""DICOM files to test with, written by pydicom."""

from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

EXPLICIT = "1.2.840.10008.1.2.1"
OPHTHALMIC = "1.2.840.10008.5.1.4.1.1.77.1.5.1"


def dicom(
    values: np.ndarray,
    *,
    says: str = "",
    syntax: str = EXPLICIT,
    stream: bytes | list[bytes] | None = None,
    bits: int = 0,
    frames: int = 1,
    **tags: object,
) -> bytes:
    """A file of values (h, w), (h, w, 3) or with frames before; says: the photometric interpretation; stream: what lies
    in the values' place, the frames compressed or the bytes as they are; tags: by their keywords, None for none."""
    shape = values.shape[1:] if frames > 1 else values.shape
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(OPHTHALMIC), UID("1.2.3.4.5")
    dataset.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    dataset.PhotometricInterpretation = says or ("RGB" if len(shape) == 3 else "MONOCHROME2")
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = shape[:2]
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    little = syntax != "1.2.840.10008.1.2.2"
    raw = values.astype(values.dtype.newbyteorder("<" if little else ">")).tobytes()
    compressed = isinstance(stream, list)
    pixels = encapsulate(stream) if isinstance(stream, list) else raw if stream is None else stream
    if not compressed and len(pixels) % 2:
        pixels += b"\0"
    vr = "OB" if compressed or values.dtype == np.uint8 else "OW"
    dataset.add_new(0x7FE00010, vr, pixels)
    dataset[0x7FE00010].is_undefined_length = compressed
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    out = BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()
