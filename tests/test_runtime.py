"""Settings of the process, each tried in a process of its own or without effect on this one."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from pinnerformer_jax import runtime
from pinnerformer_jax.runtime import keep_compiled, keep_heap, set_up_process

FAULTS = """
import resource
import sys

import jax
import jax.numpy as jnp

from pinnerformer_jax.runtime import keep_heap, share_heap

if sys.argv[1] == "keep":
    share_heap()

@jax.jit
def step(x):
    square = jnp.tanh(x @ x.T)
    return square @ (square @ x)

x = jnp.ones((5000, 8))
step = step.lower(x).compile()
temporaries = step.memory_analysis().temp_size_in_bytes
assert temporaries > 90 << 20
if sys.argv[1] == "keep":
    assert keep_heap(temporaries)
for _ in range(20):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@pytest.mark.slow
@on_glibc
def test_kept_memory_is_not_faulted_in_again():
    def faults(mode):
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        command = [sys.executable, "-c", FAULTS, mode]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert faults("keep") < 0.5 * faults("default")


def test_memory_is_not_kept_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(runtime, "_mallopt", lambda name, value: True)
    monkeypatch.setattr(runtime, "_free_memory", lambda: 1000)
    assert not keep_heap(251)
    assert keep_heap(250)


def test_free_memory_is_that_of_this_machine():
    assert 0 <= runtime._free_memory() < 1 << 50


def test_what_a_container_uses_already_is_not_free(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 3500\ninactive_file 500\n")
    group = "/sys/fs/cgroup"
    monkeypatch.setattr(runtime, "Path", lambda path: tmp_path if path == group else Path(path))
    assert runtime._free_memory() == 1500


@pytest.fixture
def no_cache():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_go_to_the_users_cache_folder(no_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled()
    first = jax.config.jax_compilation_cache_dir
    assert first.startswith(str(tmp_path / "pinnerformer_jax" / "programs-"))
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(platform, "machine", lambda: "another")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir != first


def test_a_folder_that_was_named_is_left(no_cache, monkeypatch, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_a_process_is_set_up_by_one_call(no_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")  # as set_up_process leaves it
    called = []
    monkeypatch.setattr(runtime, "_mallopt", lambda name, value: called.append((name, value)))
    set_up_process(keep_programs=False)
    assert called == [(-8, 1)]  # M_ARENA_MAX
    assert jax.config.jax_compilation_cache_dir is None
    set_up_process()
    assert jax.config.jax_compilation_cache_dir.startswith(str(tmp_path))


ARROW = """
from pinnerformer_jax.runtime import set_up_process

set_up_process()
import pyarrow

print(pyarrow.default_memory_pool().backend_name)
"""


def test_arrow_takes_memory_from_the_heap():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARROW_")}
    command = [sys.executable, "-c", ARROW]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "system\n"


DAMAGED = """
from pinnerformer_jax.runtime import leave_out_readers

leave_out_readers()

class Fails:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise RuntimeError(self.text)

for text in ("Event loop is closed", "Encountered error while reading array index: 3", "something else"):
    Fails(text)
"""


def test_only_tracebacks_of_readers_of_a_damaged_checkpoint_are_left_out():
    """tests/test_damage.py damages checkpoints; where the threads are when one fails is chance."""
    done = subprocess.run([sys.executable, "-c", DAMAGED], capture_output=True, text=True, check=True)
    assert done.stderr.count("Traceback") == 1
    assert "something else" in done.stderr
