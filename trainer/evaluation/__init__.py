"""Honest measures: metrics, bootstrap, calibration, operating points, subgroups, paired comparison."""
