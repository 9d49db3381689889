"""attributes.csv: the columns that `tools preprocess --keep-column` kept of the photographs."""

import io

import pandas as pd

from pipeline.cache.cache import Cache, checked_bytes
from pipeline.cache.index import ATTRIBUTES
from pipeline.errors import CacheError


def read_attributes(cache: Cache) -> pd.DataFrame:
    """A row for each row of the manifest, in its order, and a column of text for each column kept; a cell that is
    empty there is "" here. Without columns where none were kept; of two with one name the first.

    Raises CacheError where the file is missing or not the one that cache.json was written with, StoreError where a URL
    cannot be read.
    """
    if not cache.index.attributes:
        return pd.DataFrame(index=cache.manifest.index)
    data = checked_bytes(cache.path / ATTRIBUTES, cache.index.attributes)
    # Without a header: pandas would give a second column called id another name.
    table = pd.read_csv(io.BytesIO(data), header=None, dtype=str, na_filter=False, encoding_errors="surrogateescape")
    header, cells = table.iloc[0], table.iloc[1:].reset_index(drop=True)
    if not cells[0].equals(cache.manifest["id"]):
        raise CacheError(
            f"{cache.path / ATTRIBUTES}: not of the photographs in the manifest; `tools preprocess` mends it"
        )
    kept = cells.drop(columns=0).set_axis(header[1:], axis=1).rename_axis(columns=None)
    return kept.loc[:, ~kept.columns.duplicated()]
