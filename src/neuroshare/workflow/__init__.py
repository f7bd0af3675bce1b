"""Whole analyses of several fits: runs, comparisons, sweeps, checks for leakage."""
