"""Unseen users, their next two weeks, the metrics of the paper and the baselines."""
