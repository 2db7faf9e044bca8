"""What a process sets before its first computation: the C heap and the cache of compiled programs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from pathlib import Path

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def keep_heap() -> bool:
    """Let glibc keep freed memory for the next allocation, which makes train steps on CPU faster.

    XLA takes its temporaries from malloc and frees them every step. By default glibc hands such large
    blocks back to the kernel, and every page is zeroed and mapped anew in the next step. So: no mmap of
    single blocks, no trimming of the heap, and one arena for all threads (the arena of any but the main
    thread holds no block above 64 MiB, and XLA's steps run in such threads). In return the process keeps
    its peak memory, and up to twice its temporaries more than that.

    Call it before the first computation: a thread that has an arena of its own stays with it.

    Returns:
        Whether it was done; only on glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1)]
    return taken == [1, 1, 1]


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, so that a second start does not compile again.

    JAX_COMPILATION_CACHE_DIR names another folder. Programs compiled for one kind of CPU may crash on
    another, so each kind has a folder of its own.
    """
    if jax.config.jax_compilation_cache_dir is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "pinnerformer_jax" / f"programs-{_cpu_kind()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _cpu_kind() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    facts = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return hashlib.sha256(repr([platform.machine(), *facts[:2]]).encode()).hexdigest()[:8]
