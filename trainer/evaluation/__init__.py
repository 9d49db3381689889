"""Evaluation of a split: metrics, bootstrap, calibration, operating point, subgroups, comparison."""
