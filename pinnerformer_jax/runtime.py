"""Settings of a process: the C heap and the cache of compiled programs, made before its first computation,
and the end of a child with its parent."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OF_READERS = ("Event loop is closed", "Encountered error while reading array index")


def set_up_process(*, keep_programs: bool = True) -> None:
    """Prepare a process to compute; each verb calls this once, before its first computation.

    All threads share one heap (`share_heap`), also with Arrow (`share_heap_with_arrow`), compiled programs
    are kept on disk (`keep_compiled`), and only the message reports a damaged checkpoint
    (`leave_out_readers`).

    Args:
        keep_programs: False where compilation itself is measured.
    """
    share_heap()
    share_heap_with_arrow()
    leave_out_readers()
    if keep_programs:
        keep_compiled()


def share_heap() -> None:
    """Let all threads use one malloc arena; without this `keep_heap` has no effect.

    XLA runs steps in threads of its own, whose arenas hold no block above 64 MiB. A thread that has an arena
    keeps it, so call this before the first computation. Only glibc has arenas; elsewhere nothing happens.
    """
    _mallopt(_M_ARENA_MAX, 1)


def share_heap_with_arrow() -> None:
    """Let Arrow take memory from malloc; call this before pyarrow is imported. The environment variable
    ARROW_DEFAULT_MEMORY_POOL names another source.

    Arrow's own allocator asks the kernel for huge pages. The few buffers of a night touch many of these, each
    of which is zeroed and stays: half a second and 150 MiB.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def leave_out_readers() -> None:
    """Print no tracebacks of threads that were reading a checkpoint when another of them failed. At the first
    array that cannot be read, Orbax (0.12) raises that error and closes its event loop; the threads that read
    the other arrays find it closed."""
    usual = sys.unraisablehook

    def hook(found: sys.UnraisableHookArgs) -> None:
        if not any(text in str(found.exc_value) for text in _OF_READERS):
            usual(found)

    sys.unraisablehook = hook


def keep_heap(temporaries: int) -> bool:
    """Let glibc keep freed memory for the next allocation, which makes train steps on CPU faster.

    XLA takes its temporaries from malloc and frees them every step. glibc returns such large blocks to the
    kernel, which zeroes and maps every page again in the next step. Kept blocks cost no system time, but they
    stay resident, with up to two more of their size, for glibc does not always reuse a freed block. So this
    is done only if four times the temporaries are free.

    Args:
        temporaries: bytes that a step takes and frees.

    Returns:
        Whether the memory is kept.
    """
    if 4 * temporaries > _free_memory():
        return False
    return _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, -1)


def _mallopt(name: int, value: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    return ctypes.CDLL(None).mallopt(name, value) == 1


def total_memory(mesh: jax.sharding.Mesh) -> int:
    """Bytes of each device of a mesh, used ones too; 0 if that is not known. Devices of a CPU share the
    machine's memory, or its container's, and swap."""
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit", 0)
    limit = _container_limit()
    total = _meminfo("MemTotal")
    return (min(total, limit or total) + _meminfo("SwapTotal")) // len(mesh.local_devices)


def _meminfo(name: str) -> int:
    """Bytes of the machine, by Linux's name of them; 0 elsewhere."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _container_limit() -> int | None:
    """Bytes that the container may use; None: it has no limit."""
    limit = Path("/sys/fs/cgroup") / "memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    return None if text == "max" else int(text)


def _free_memory() -> int:
    """Free bytes of the machine, or of its container; 0 if neither is known."""
    free, limit, group = _meminfo("MemAvailable"), _container_limit(), Path("/sys/fs/cgroup")
    if limit is None or not free:
        return free
    used, stat = int((group / "memory.current").read_text()), (group / "memory.stat").read_text().splitlines()
    cached = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    return min(free, limit - used + cached)  # the kernel drops cached files when memory is needed


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, so that a second start does not compile again.

    JAX_COMPILATION_CACHE_DIR names another folder. Programs compiled for one kind of CPU may crash on
    another, so each kind has a folder of its own.
    """
    if jax.config.jax_compilation_cache_dir is None:  # ty: ignore[missing-attribute]
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "pinnerformer_jax" / f"programs-{cpu_kind()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # The programs of a small model, a dozen in the daily job, compile in less than JAX's second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def cpu_kind() -> str:
    """Eight hex digits that tell apart kinds of CPU, for which programs are compiled differently."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    facts = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return hashlib.sha256(repr([platform.machine(), *facts[:2]]).encode()).hexdigest()[:8]


def end_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn` of a child process: Linux kills the child when the thread that started it ends, even
    if that is killed. None elsewhere, where a child outlives a killed parent."""
    if platform.system() != "Linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return in_child
