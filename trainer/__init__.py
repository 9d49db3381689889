"""From a cache to an honestly measured ResNet: the `trainer` command.

cli config presets run_folder kinds console   options, settings, files, what is printed
distributed/   several processes that train one network
network/       the network, its weights, what they say of themselves, how their logits become a decision, export
inference/     the one way from images to logits; photographs to use it on; predictions; Grad-CAM
evaluation/    a split evaluated by honest measures: bootstrap, calibration, operating points, subgroups, comparison
training/      from the first step to the last
reporting/     figures, tables, pages and the words on them
serving/       a page on this machine where photographs are graded
commands/      the only room that speaks to the terminal
"""
