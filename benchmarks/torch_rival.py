"""Our train step against the same step in PyTorch, side by side on this machine.

    python -m benchmarks.torch_rival --size small --seconds 120 --json small.json

Both take the same weights, batch, positions, targets, negatives and log Q, and do the same work: input
features, both towers, sampled softmax with masks, clipping, AdamW. Each variant is a process of its own. The
variants take turns, in reversed order every other round, so that a slow spell of the machine meets all of
them and no two share threads. A variant is timed only if, with the same weights, its loss, EVERY
parameter's gradient and its loss after three updates agree with our float32 reference; otherwise it is left
out and the table says why. A ratio is our time over the rival's, round by round: below 1 ours is faster. Run
it on a quiet machine: other work slows PyTorch's OpenMP barriers more than XLA, so the result records the
load before the start.

"whole step" is what train.py runs: it also draws and counts positions, targets and negatives, which
PyTorch's step does not do. Float32 on CPU; on a GPU bfloat16 towers and a float32 (TF32) loss. Needs jax,
flax, optax, numpy and, for the rival alone, torch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import problem
from benchmarks.problem import SIZES, Arrays, Size
from benchmarks.rival_variants import CHECK_STEPS, VARIANTS, Wrong, check, our_side, reference, torch_side
from pinnerformer_jax.bench.accelerator import CUBLAS
from pinnerformer_jax.bench.correctness import named
from pinnerformer_jax.files import write_json
from pinnerformer_jax.runtime import end_with_parent

KEPT_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
"""What `runtime.share_heap` and `runtime.keep_heap` set in train.py; here the same for every variant."""

TURN_LIMIT = 60.0  # seconds; a variant whose turn takes longer is left out
TURN_SECONDS = 1.0  # the least length of a turn, so that its first step, with cold caches, weighs little
REST_SECONDS = 0.25  # between turns: OpenMP's threads spin for a while after their last work
READY, DONE, OUT = "@ready", "@done", "@out"
REFERENCE = "reference"  # the process that computes what all are checked against


def _write_reference(size: Size, folder: Path) -> None:
    """Write our float32 results, the parameters and the device's name to reference.npz. This process then
    ends, so that it holds no device memory while the variants are timed."""
    import jax

    inputs = problem.make_problem(size)
    loss, gradient, later = reference(size, inputs)
    params = named(problem.make_params(problem.make_config(size, "float32"), size)[1])
    stored = {"facts:loss": loss, "facts:later": later}
    stored["facts:dtype"] = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    stored |= {"facts:device": jax.devices()[0].device_kind, "facts:jax": jax.__version__}
    stored |= {f"gradient:{name}": value for name, value in gradient.items()}
    stored |= {f"params:{name}": value for name, value in params.items()}
    np.savez(folder / "reference.npz", **stored)


def _read_reference(folder: Path) -> dict[str, Arrays]:
    kinds: dict[str, Arrays] = {"facts": {}, "params": {}, "gradient": {}}
    with np.load(folder / "reference.npz", allow_pickle=False) as stored:
        for key in stored.files:
            kind, _, rest = key.partition(":")
            kinds[kind][rest] = stored[key]
    return kinds


def _child(name: str, size: Size, folder: Path) -> None:
    """A variant's process: check, then time as many steps as each line of stdin says."""

    def say(*words: object) -> None:
        print(*words, file=answers, flush=True)

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout
    if name == REFERENCE:
        _write_reference(size, folder)
        say(READY)
        return
    variant, inputs, kinds = VARIANTS[name], problem.make_problem(size), _read_reference(folder)
    facts = kinds["facts"]
    wanted = (float(facts["loss"]), kinds["gradient"], float(facts["later"]))
    dtype = str(facts["dtype"])
    started = time.perf_counter()
    try:
        if variant.framework == "ours whole":
            config = problem.make_config(size, dtype)
            graphdef, _ = problem.make_params(config, size)
            run, line = problem.our_whole_step(config, graphdef, size, inputs), "draws for itself"
            float(run())
        else:
            if variant.framework == "torch":
                loss, found, run = torch_side(variant, size, dtype, inputs, kinds["params"])
            else:
                loss, found, run = our_side(variant, size, dtype, inputs)
            later = [float(run()) for _ in range(CHECK_STEPS + 1)][-1]
            line = check(loss, found, later, wanted, dtype)
    except (Wrong, ImportError, RuntimeError) as error:
        say(OUT, f"{type(error).__name__}: {error}".splitlines()[0])
        return
    say(READY, f"{line}; set up in {time.perf_counter() - started:.0f} s")
    for count in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(count)):
            loss = run()
        float(loss)  # waits
        say(DONE, (time.perf_counter() - started) / int(count))


def _size(name: str, users: int) -> Size:
    return SIZES[name]._replace(users=users or SIZES[name].users)


class _Process:
    """A variant's process, as the parent sees it. If it dies or does not answer in time, the variant is left
    out and the others go on."""

    def __init__(self, name: str, args: argparse.Namespace, folder: str) -> None:
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        # Timing Triton's products beside cuBLAS's took minutes on an H200: our variants go without, as
        # `bench accelerator` does.
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CUBLAS}".strip()
        environment |= KEPT_HEAP if args.heap == "kept" else {}
        command = [sys.executable, "-m", "benchmarks.torch_rival", "--size", args.size]
        command += ["--users", str(args.users), "--child", name, folder]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            preexec_fn=end_with_parent(),
        )  # fmt: skip
        self.ready, self.line = False, ""
        self.milliseconds: list[float] = []
        self.steps = 1

    def set_up(self, seconds: float) -> None:
        """Wait until it has compiled and was checked; `ready` then says how that ended."""
        word, self.line = self._answer(seconds)
        self.ready = word == READY

    def turn(self) -> float | None:
        """Milliseconds a step, of one turn; None: it is out."""
        try:
            self.process.stdin.write(f"{self.steps}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `_answer` gives the reason
        word, line = self._answer(TURN_LIMIT)
        if word == DONE:
            return 1000 * float(line)
        self.ready, self.line = False, line
        return None

    def _answer(self, seconds: float) -> tuple[str, str]:
        """(word, rest) of its next line."""
        if not select.select([self.process.stdout], [], [], max(seconds, 0.0))[0]:
            self.process.kill()
            return OUT, f"no answer in {seconds:.0f} s"
        word, _, line = self.process.stdout.readline().strip().partition(" ")
        return (word, line) if word else (OUT, f"ended with code {self.process.wait()}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def run_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Time the variants; the result, which is also written to the file after each round."""
    end = time.monotonic() + args.limit
    result: dict[str, Any] = {
        "benchmark": "torch_rival", "size": args.size, **_size(args.size, args.users)._asdict(),
        "heap": args.heap, "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2),
        "command": " ".join(["python -m benchmarks.torch_rival", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "variants": {},
    }  # fmt: skip
    processes: dict[str, _Process] = {}

    def keep() -> None:
        timed = {name: process for name, process in processes.items() if process.milliseconds}
        result["variants"] = {
            name: {"passed": p.ready, "check": p.line, "ms": _quartiles(p.milliseconds),
                   "ms_fastest": min(p.milliseconds, default=None),
                   "rounds": len(p.milliseconds), "ours_over_it": _ratio(name, timed)}
            for name, p in processes.items()
        }  # fmt: skip
        if args.json:
            write_json(args.json, result)

    with tempfile.TemporaryDirectory() as folder:
        try:
            reference = _Process(REFERENCE, args, folder)
            reference.set_up(min(args.setup, end - time.monotonic()))
            reference.close()
            if not reference.ready:
                raise SystemExit(f"error: our own step as reference: {reference.line}")
            facts = _read_reference(Path(folder))["facts"]
            result |= {name: str(facts[name]) for name in ("dtype", "device", "jax")}
            names = list(args.only or VARIANTS)
            if args.together:
                processes |= {n: _Process(n, args, folder) for n in names if not VARIANTS[n].instead_of}
            for name in names:
                default = processes.get(VARIANTS[name].instead_of)
                if default and default.ready:
                    continue
                if name not in processes:
                    processes[name] = _Process(name, args, folder)
                process = processes[name]
                process.set_up(min(args.setup, end - args.seconds - time.monotonic()))
                print(f"{name}: {'passed' if process.ready else 'LEFT OUT'}: {process.line}", flush=True)
                keep()
            for process in processes.values():  # warm, and long enough a turn
                if process.ready and process.turn() is not None:
                    first = process.turn()
                    process.steps = max(1, round(1000 * TURN_SECONDS / first)) if first else 1
            order, stop = list(processes.values()), min(time.monotonic() + args.seconds, end)
            while time.monotonic() < stop and any(process.ready for process in order):
                for process in order:
                    if process.ready:
                        time.sleep(REST_SECONDS)
                        taken = process.turn()
                        process.milliseconds += [] if taken is None else [taken]
                order.reverse()
                keep()
        finally:
            for process in processes.values():
                process.close()
    return result


def _quartiles(values: list[float]) -> list[float] | None:
    """[25 %, median, 75 %]"""
    return [round(float(q), 4) for q in np.quantile(values, [0.25, 0.5, 0.75])] if values else None


def _ratio(name: str, timed: dict[str, _Process]) -> list[float] | None:
    """Our time over this variant's; ours is the variant that is pruned as this one is."""
    ours = timed.get("ours, unpruned" if not VARIANTS[name].pruned else "ours")
    if name not in timed or ours is None or ours is timed[name]:
        return None
    # A variant that was left out later has fewer rounds than ours; zip pairs the rounds that both have.
    return _quartiles([a / b for a, b in zip(ours.milliseconds, timed[name].milliseconds, strict=False)])


def table(result: dict[str, Any]) -> str:
    """The result as a table for the terminal."""
    lines = [
        f"{result['size']}: L{result['layers']} H{result['width']} {result['heads']} heads "
        f"T{result['length']} "
        f"B{result['users']}, {result['in_batch'] + result['random']:,} negatives, {result['dtype']}, "
        f"{result['device']}, heap {result['heap']}; load before the start {result['load_before']}",
        f"{'':36}  {'step, ms: median (quartiles), fastest':36}  ours over it: median (quartiles)",
    ]
    for name, row in result["variants"].items():
        if not row["passed"] or not row["ms"]:
            lines.append(f"{name:36}  left out: {row['check']}")
            continue
        low, middle, high = row["ms"]
        times = f"{middle:.1f} ({low:.1f}-{high:.1f}), {row['ms_fastest']:.1f}"
        ratio = row["ours_over_it"]
        ratio = f"{ratio[1]:.2f} ({ratio[0]:.2f}-{ratio[2]:.2f})" if ratio else ""
        lines.append(f"{name:36}  {times:36}  {ratio}")
    return "\n".join(lines)


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="shapes; paper is for a GPU")
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing, all variants together")
    parser.add_argument("--users", type=int, default=0, help="users a batch; 0: the size's own")
    heap = "malloc of every variant: as train.py sets it, or glibc's default"
    parser.add_argument("--heap", choices=["kept", "default"], default="kept", help=heap)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help="variants; all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here after each round")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="the same, as DIR/rival-SIZE.json")
    setup = "seconds a variant may take to compile and be checked (%(default)s)"
    parser.add_argument("--setup", type=float, default=900.0, help=setup)
    together = "set all up at once: for a machine with many cores and an accelerator's memory"
    parser.add_argument("--together", action="store_true", help=together)
    limit = "seconds after which all ends (%(default)s)"
    parser.add_argument("--limit", type=float, default=3600.0, help=limit)
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _child(args.child[0], _size(args.size, args.users), Path(args.child[1]))
        return
    if args.folder:
        args.json = args.folder / f"rival-{args.size}.json"
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    result = run_benchmark(args)
    print(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
