"""Experiments: arms x seeds = trials, executed inline, in processes or on Ray; models on disk."""
