"""PinnerFormer (Pancha et al., KDD 2022) in JAX: one embedding a user for the next two weeks.

One folder a stage; each imports those before it, and none behind it (tests/test_imports.py):
data, ingestion, model, objective, training, retrieval, evaluation, items, serving, studies, bench.
"""

__version__ = "0.1.0"
