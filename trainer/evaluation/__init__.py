"""A split evaluated by honest measures: metrics, bootstrap, calibration, operating point, subgroups, comparison."""
