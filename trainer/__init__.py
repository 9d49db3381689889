"""Trains ResNets on a cache and measures them: the `trainer` command.

cli config presets run_folder kinds console   options, settings, files, what is printed
distributed/   several processes that train one network
network/       the network, its weights, what they say of themselves, how their logits become a decision, export
inference/     the one way from images to logits; photographs to use it on; predictions; Grad-CAM
evaluation/    a split evaluated by honest measures: bootstrap, calibration, operating points, subgroups, comparison
training/      from the first step to the last
reporting/     figures, tables, pages and the words on them
serving/       a page on this machine where photographs are graded
commands/      the only room that speaks to the terminal

What a library user needs stands here, and is imported when it is asked for: `import trainer` costs nothing.
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
