"""Graded fundus photographs: their cache, and the loaders that feed a trainer from it.

    errors grades limits metrics machine threads progress lazy   what all rooms share
    storage/   files here and behind URLs: whole or not there, and never over what others made
    photos/    from a photograph's bytes to the prepared square
    cache/     the prepared photographs: index, table, shards, splits
    loading/   batches for a trainer: an epoch is a table, and a loader renders it
    command_line   what the command lines of `tools` and `trainer` share; no file here imports it

What a library user needs stands here, and is imported when it is asked for: `import pipeline` costs nothing.
"""

from typing import TYPE_CHECKING, Final

from pipeline.lazy import lazy_getattr

if TYPE_CHECKING:
    from pipeline.cache.cache import Cache as Cache
    from pipeline.cache.cache import open_cache as open_cache
    from pipeline.loading.batch import Batch as Batch
    from pipeline.loading.batch import Loader as Loader
    from pipeline.loading.batch import normalise as normalise
    from pipeline.loading.cache_dataset import CacheDataset as CacheDataset
    from pipeline.loading.loaders import open_loader as open_loader
    from pipeline.loading.plan import NO_AUGMENT as NO_AUGMENT
    from pipeline.loading.plan import Augment as Augment

_HOMES: Final = {
    "open_cache": "pipeline.cache.cache",
    "open_loader": "pipeline.loading.loaders",
    "CacheDataset": "pipeline.loading.cache_dataset",
    "Cache": "pipeline.cache.cache",
    "Loader": "pipeline.loading.batch",
    "Augment": "pipeline.loading.plan",
    "NO_AUGMENT": "pipeline.loading.plan",
    "Batch": "pipeline.loading.batch",
    "normalise": "pipeline.loading.batch",
}

__getattr__ = lazy_getattr(__name__, _HOMES)
