"""Tests run as strictly as jax allows: eight simulated devices, no silent promotion, no network, and shapes
and types checked against the annotations at every call."""

import os
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Tests compile more than they compute. Of a train step's compilation these leave a sixth.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Later releases know no such flag, and compile as fast without it.
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

import pinnerformer_jax as package
from pinnerformer_jax.runtime import cpu_kind, leave_out_readers

if find_spec("beartype"):  # a GPU machine may lack it
    # All but config, which says itself what type a setting must have, and workers, whose generator is none
    # for Ray once it is wrapped.
    stages = [f"pinnerformer_jax.{path.stem}" for path in Path(package.__file__).parent.iterdir()]
    install_import_hook(
        [name for name in stages if name not in ("pinnerformer_jax.config", "pinnerformer_jax.workers")],
        "typechecking.checked",
    )

# Many tests, and the processes that they start, compile the same programs, and so does the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / f".pytest_cache/programs-{cpu_kind()}")
)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
for name, everything in (("MIN_COMPILE_TIME_SECS", 0), ("MIN_ENTRY_SIZE_BYTES", -1)):
    os.environ[f"JAX_PERSISTENT_CACHE_{name}"] = str(everything)
    jax.config.update(f"jax_persistent_cache_{name.lower()}", everything)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_sessionstart() -> None:
    """A test that damages a checkpoint leaves threads that find their loop closed in some later test."""
    leave_out_readers()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With -m gpu only the file of those tests is imported: a GPU machine may lack what the others need."""
    ignored = config.option.markexpr == "gpu" and collection_path.suffix == ".py"
    return True if ignored and collection_path.name != "test_gpu.py" else None


@pytest.fixture
def standard_promotion():
    """For calls into optax, which computes float ** int."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def timelines(tmp_path):
    """Those of event_world, imported here because a GPU machine may lack what it needs."""
    from event_world import make_timelines

    return make_timelines(tmp_path)


@pytest.fixture
def connection(timelines):
    """An engine that has their catalogue."""
    from event_world import connect

    with connect(timelines) as connection:
        yield connection


@pytest.fixture(scope="session")
def first_state(tmp_path_factory):
    """(folder, workdir, snapshots) of a run whose first state, of day 29, is published. For reading."""
    from daily_run import make_first_state

    folder = tmp_path_factory.mktemp("first-state")
    return folder, *make_first_state(folder, dtype="float32")


@pytest.fixture
def copied_state(first_state, tmp_path):
    """(folder for logs, workdir, snapshots), the snapshots a copy to write to."""
    shutil.copytree(first_state[2], tmp_path / "snapshots")
    return tmp_path, first_state[1], tmp_path / "snapshots"
