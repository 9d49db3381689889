"""Reads files of torch.save without running code that may be hidden in them."""

import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

from pipeline.errors import RunError
from pipeline.storage.artifacts import open_regular


def read_torch(path: Path) -> Any:
    """What torch.save wrote, on the CPU, as long as it is tensors and plain values: pickled code is never run.

    Raises RunError where the file is missing, damaged, or holds more than that.
    """
    try:
        open_regular(path).close()  # a FIFO would be waited for
        if is_zipfile(path):  # as torch.save writes since 1.6; torch.load looks at no checksum
            with ZipFile(path) as records:
                if damaged := records.testzip():
                    raise BadZipFile(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's doubts about a file it is going to refuse
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist") from error
    except MemoryError:
        raise
    except Exception as error:  # torch and zipfile raise a dozen kinds at files that are cut or something else
        raise RunError(f"{path} is damaged or holds more than weights; nothing of it was run") from error
