"""Files of torch.save, read without running any code in them."""

import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

from pipeline.errors import RunError
from pipeline.storage.artifacts import open_regular


def read_torch(path: Path) -> Any:
    """The tensors and plain values in a file of torch.save, on the CPU. Pickled code is never run.

    Raises RunError if the file is missing, damaged, or holds anything else.
    """
    try:
        open_regular(path).close()  # reading a FIFO would wait for ever
        if is_zipfile(path):  # the format since torch 1.6; torch.load checks no checksum
            with ZipFile(path) as records:
                if damaged := records.testzip():
                    raise BadZipFile(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of files that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist") from error
    except MemoryError:
        raise
    except Exception as error:  # torch and zipfile raise a dozen kinds for damaged and foreign files
        raise RunError(f"{path} is damaged or holds more than weights; nothing of it was run") from error
