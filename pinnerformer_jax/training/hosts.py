"""One training by several processes, on one machine or many: how they find each other, agree and end.

Every process runs the same command and the same program. It reads the rows of its own devices alone; process
0 writes the workdir, which all of them see. SIGTERM or Ctrl-C to any of them ends all after the same step. If
one dies, the others end with a message, of theirs or of their parent, see supervisor.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from pinnerformer_jax.training.supervisor import ENDED, Tell, ending, sign, who_died

SILENCE = 45
"""Seconds after which a process that gives no sign of life counts as dead, and the others end."""
BEAT = 3
"""Seconds between signs of life."""

_BROKEN = ("gloo", "connection", "unavailable", "nccl", "heartbeat", "deadline_exceeded")
"""In the text of an error that another process caused."""

_LONGEST = 24 * 3600
"""Seconds that a process waits for another that lives."""

AUTO = "auto"

_MEETINGS = itertools.count()


def join(hosts: str, count: int | None = None, index: int | None = None) -> None:
    """Join the other processes of a training. Call it before anything is computed.

    Args:
        hosts: AUTO: what Slurm, Open MPI or a TPU pod tells its processes; or ADDRESS:PORT of process 0.
        count: of the processes, with an address.
        index: of this one, from 0, likewise.

    Raises:
        ValueError: AUTO, and nothing tells; an address without count or index; or the others did not come.
    """
    if hosts == AUTO:
        if count is not None or index is not None:
            raise ValueError("--hosts auto finds both itself: leave --host-count and --host-index out")
        address = None
    else:
        address = hosts
        if count is None or index is None or not 0 <= index < count:
            raise ValueError(
                f"--hosts {hosts}: name the number of processes, --host-count N, and the number of this one, "
                "--host-index 0 to N - 1 (such as $JOB_COMPLETION_INDEX in a Kubernetes job)"
            )
        if not address.rpartition(":")[2].isdecimal() or not address.rpartition(":")[0]:
            raise ValueError(f"--hosts {hosts}: must be auto, or ADDRESS:PORT of process 0")
    try:
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=2 * SILENCE)
    except ValueError as error:
        raise ValueError(
            f"--hosts auto: neither Slurm nor Open MPI nor a TPU pod started this process ({error}); name "
            "--hosts ADDRESS:PORT --host-count N --host-index I"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"--hosts {hosts}: the processes did not meet: {error}") from error


def several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes the workdir."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_speaks() -> Generator[None, None, None]:
    """Leave out what processes other than the first print to stdout."""
    if is_first():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def of_first(values: Any) -> Any:
    """What process 0 has, on every process: a tree of numbers or arrays of the same shapes on each."""
    if not several():
        return values
    from jax.experimental import multihost_utils

    meet()
    return multihost_utils.broadcast_one_to_all(values)


def left_to_first(graphdef: Any, params: Any) -> tuple[float, float]:
    """The gain that processes other than the first measure: none, as `of_first` gives them that of the
    first, which alone reads the histories and holds the catalogue for it."""
    return 0.0, 0.0


def meet() -> None:
    """Wait for the other processes, however long they compile or measure; `ended_together` notices if one is
    dead. Without this, the first exchange between CPUs fails where one comes to it 30 s before another."""
    if several():
        import orbax.checkpoint as ocp

        barrier = ocp.multihost.get_barrier_sync_fn()
        barrier(key=f"meet-{next(_MEETINGS)}", timeout_ms=_LONGEST * 1000)


class Stop:
    """Whether SIGTERM or SIGINT asked to stop.

    One process catches the signals itself. Several leave SIGTERM to JAX, which tells all of them and names
    the step after which all stop; SIGINT is passed on as SIGTERM. A second signal acts as it would without
    this.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def after(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after each."""
        if several():
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def __enter__(self) -> Stop:
        names = (signal.SIGINT,) if several() else (signal.SIGTERM, signal.SIGINT)
        for name in names:
            self._before[name] = signal.signal(name, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for name, before in self._before.items():
            signal.signal(name, before)

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True
        signal.signal(number, self._before[signal.Signals(number)])
        if several():
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def ended_together(workdir: Path, tell: Tell) -> Generator[None, None, None]:
    """What one of several processes does between `join` and its end, which waits for the others only if all
    went well. After an error it tells the others and ends, since they may wait for it, and they end too.

    Signs of life are files, WORKDIR/hosts/I: JAX would notice a dead process as well, but ends the others
    without a word of what to do. Where it does so all the same, the parent has the word, see `supervisor`.

    Args:
        workdir: of the run.
        tell: what `supervisor.supervised` passes.
    """
    tell(jax.process_index(), jax.process_count())
    _sign(workdir, "begun")
    meet()  # from here on no sign is one of an earlier run
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(workdir, over), daemon=True)
    watch.start()
    try:
        yield
    except SystemExit as error:
        over.set()
        _tell(workdir)
        _end(error.code if isinstance(error.code, int) else 1)
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())[:300]
        if any(word in text.lower() for word in _BROKEN):
            died = who_died(workdir, jax.process_index(), jax.process_count())
            text = died or f"the connection to another broke ({text})"
        over.set()
        _tell(workdir)
        _end_alone(workdir, text)
    except BaseException:
        traceback.print_exc()
        over.set()
        _tell(workdir)
        _end(1)
    over.set()
    jax.distributed.shutdown()


def _watch(workdir: Path, over: threading.Event) -> None:
    """Give signs of life, and end the process when another gives none."""
    folder, index, beat = workdir / "hosts", jax.process_index(), 0
    others = [other for other in range(jax.process_count()) if other != index]
    seen = dict.fromkeys(others, ("", time.monotonic()))
    while not over.wait(BEAT):
        beat += 1
        _sign(workdir, str(beat))
        for other in others:
            with contextlib.suppress(OSError):
                found = (folder / str(other)).read_text()
                if found == ENDED:
                    _end_alone(workdir, f"process {other} has ended, and says why")
                if found.startswith(ENDED):
                    _end_alone(workdir, f"process {other} has {found}")
                if found != seen[other][0]:
                    seen[other] = found, time.monotonic()
            if time.monotonic() - seen[other][1] > SILENCE and not over.is_set():
                _end_alone(workdir, f"process {other} has given no sign of life for {SILENCE} s")


def _tell(workdir: Path) -> None:
    """Tell the others that this process ends; process 0, through which they are connected, waits until they
    have read it."""
    _sign(workdir, ENDED)
    if is_first():
        time.sleep(2 * BEAT)


def _sign(workdir: Path, text: str) -> None:
    sign(workdir, jax.process_index(), text)


def _end_alone(workdir: Path, reason: str) -> NoReturn:
    print(ending(workdir, jax.process_index(), jax.process_count(), reason), file=sys.stderr)
    _end(1)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def rows_of(mesh: jax.sharding.Mesh, size: int) -> np.ndarray | None:
    """Rows of a batch of `size` users that the devices of this process take, device by device; None: all, as
    this is the only process."""
    if not several():
        return None
    devices = list(mesh.devices.flat)
    mine = [place for place, device in enumerate(devices) if device.process_index == jax.process_index()]
    return np.concatenate([np.arange(place, size, len(devices)) for place in mine])
