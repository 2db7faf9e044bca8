"""Tests run as strictly as jax allows: eight simulated devices, no silent promotion, no network."""

import os

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    # Tests compile more than they compute: of a train step's compilation this leaves a sixth.
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation, and many tests, and the processes they start, compile the same.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "/tmp/testcache")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def standard_promotion():
    """For calls into optax, which computes float ** int."""
    with jax.numpy_dtype_promotion("standard"):
        yield
