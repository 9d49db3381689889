"""attributes.csv: columns about the photographs that `tools preprocess --keep-column` kept."""

import io

import pandas as pd

from pipeline.cache.cache import Cache, checked_bytes
from pipeline.cache.index import ATTRIBUTES
from pipeline.errors import CacheError


def read_attributes(cache: Cache) -> pd.DataFrame:
    """The kept columns as text, a row for each row of the manifest, in its order.

    Empty cells are "". The table has no columns if none were kept. If two columns have one name, the first is taken.

    Raises CacheError if the file is missing or differs from the one that cache.json describes, StoreError if a URL
    cannot be read.
    """
    if not cache.index.attributes:
        return pd.DataFrame(index=cache.manifest.index)
    data = checked_bytes(cache.path / ATTRIBUTES, cache.index.attributes)
    # header=None, because pandas would rename a second column called id.
    table = pd.read_csv(io.BytesIO(data), header=None, dtype=str, na_filter=False, encoding_errors="surrogateescape")
    header, cells = table.iloc[0], table.iloc[1:].reset_index(drop=True)
    if not cells[0].equals(cache.manifest["id"]):
        raise CacheError(
            f"{cache.path / ATTRIBUTES}: its rows do not match the manifest; `tools preprocess` repairs it"
        )
    kept = cells.drop(columns=0).set_axis(header[1:], axis=1).rename_axis(columns=None)
    return kept.loc[:, ~kept.columns.duplicated()]
