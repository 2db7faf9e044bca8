"""The parent of a process of `train --hosts`. It says what to do where JAX, gloo or the system ends the
training without a word: JAX aborts a process that loses process 0, gloo one whose exchange breaks, and no
process can say that it was killed.

The parent forks before JAX has started and computes nothing, so that its memory is the child's own.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pinnerformer_jax.runtime import end_with_parent

ENDED = "ended"
"""Sign of a process that ends and says why; with ": REASON", of one of which its parent says so."""

_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
_PLACE = struct.Struct("ii")
_PATIENCE = 2.0
"""Seconds that a process which was aborted waits to learn which one died."""

Tell = Callable[[int, int], None]
"""Tells the parent the number of this process and how many there are."""


def supervised(workdir: Path, training: Callable[[Tell], int]) -> int:
    """Run a training in a child process; both return its exit code. Where a signal ended the child, the
    parent tells the others so, prints one message, and returns 1.

    The parent passes SIGTERM and SIGINT on. The child has a process group of its own, so that Ctrl-C reaches
    it once. It is killed if the parent is.

    Args:
        workdir: of the run.
        training: what the child does.
    """
    place = mmap.mmap(-1, _PLACE.size)  # shared; zeros until the child knows which process it is
    tie = end_with_parent()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until each has its handlers
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if tie:
            tie()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        return training(lambda index, count: _PLACE.pack_into(place, 0, index, count))

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for number, handler in before.items():
        signal.signal(number, handler)
    if code >= 0:
        return code
    index, count = _PLACE.unpack_from(place)
    name = signal.Signals(-code).name
    if code == -signal.SIGABRT:
        reason = who_died(workdir, index, count) or "another process, or the connection to it, was lost"
        reason = f"{reason}, so that JAX aborted this one ({name})"
    else:
        reason = f"it was killed by {name}"
        if count:
            sign(workdir, index, f"{ENDED}: killed by {name}")
    print(ending(workdir, index, count, reason), file=sys.stderr)
    return 1


def sign(workdir: Path, index: int, text: str) -> None:
    """Write the sign of life, or of an end, of process `index`: WORKDIR/hosts/I."""
    try:
        (workdir / "hosts").mkdir(parents=True, exist_ok=True)
        (workdir / "hosts" / str(index)).write_text(text)
    except OSError as error:  # such as a full disk
        print(f"process {index} cannot give a sign of life: {error}", file=sys.stderr)


def who_died(workdir: Path, index: int, count: int) -> str:
    """Which other process has died and by what, as soon as its parent has said so; "" if none does."""
    latest = time.monotonic() + _PATIENCE
    while True:
        for other in range(count):
            with contextlib.suppress(OSError):
                found = (workdir / "hosts" / str(other)).read_text()
                if other != index and found.startswith(f"{ENDED}: "):
                    return f"process {other} has {found}"
        if time.monotonic() > latest:
            return ""
        time.sleep(0.1)


def ending(workdir: Path, index: int, count: int, reason: str) -> str:
    """The message of a process that ends because it, or another, has died; `count` 0: it is not known which
    it is."""
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    kept = f"the checkpoint of step {max(steps)} is kept" if steps else "there is no checkpoint yet"
    which = f"process {index} of {count} ends" if count else "the training ends"
    return f"error: {which}: {reason}; {kept}, and the same commands go on"
