"""Tests run as strictly as jax allows: eight simulated devices, no silent promotion, no network."""

import os

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0"  # tests compile more than they compute
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def standard_promotion():
    """For calls into optax, which computes float ** int."""
    with jax.numpy_dtype_promotion("standard"):
        yield
