"""Trains ResNets on a cache and measures them: the `trainer` command.

cli config presets plugs run_folder kinds console   options, settings, functions of users, files, the terminal
distributed/   several processes that train one network
network/       the network, its weights and their metadata, the decision rule, export
inference/     from photographs to logits and predictions; Grad-CAM
evaluation/    measures of a split: bootstrap, calibration, operating points, subgroups, comparison
training/      the training loop and its parts
reporting/     figures, tables, pages and the sentences on them
serving/       the page of `trainer serve`
commands/      what each command does; only here is anything printed

The names for library users are imported when they are used, so `import trainer` takes no time.
"""

from typing import TYPE_CHECKING, Final

from pipeline.lazy import lazy_getattr

if TYPE_CHECKING:
    from trainer.inference.loaded_model import LoadedModel as LoadedModel
    from trainer.inference.loaded_model import Predictions as Predictions
    from trainer.inference.loaded_model import load_model as load_model

_HOMES: Final = {
    "load_model": "trainer.inference.loaded_model",
    "LoadedModel": "trainer.inference.loaded_model",
    "Predictions": "trainer.inference.loaded_model",
}

__getattr__ = lazy_getattr(__name__, _HOMES)
