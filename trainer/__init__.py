"""From a cache to an honestly measured ResNet: the `trainer` command.

cli config presets run_folder kinds console   options, settings, files, what is printed
distributed/   several processes that train one network
network/       the network, its weights, what they say of themselves, and how their logits become a decision
inference/     the one way from images to logits; photographs to use it on; Grad-CAM
evaluation/    honest measures: bootstrap, calibration, operating points, subgroups, paired comparison
training/      from the first step to the last
reporting/     figures, tables, pages and the words on them
commands/      the only room that speaks to the terminal
"""
