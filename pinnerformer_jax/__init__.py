"""PinnerFormer (Pancha et al., KDD 2022) in JAX: one embedding a user for the next two weeks.

The way of the data, one folder a stage, imports run downwards only:
data -> model -> objective -> training -> retrieval -> evaluation -> serving.
"""

__version__ = "0.1.0"
