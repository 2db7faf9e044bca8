"""Cost of a compiled program from its text. A loop's body counts as often as it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

_HEAD = re.compile(r"(?P<entry>ENTRY )?%(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r" +(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<type>.+?) (?P<kind>[a-z][\w\-]*)\((?P<rest>.*)"
)
_ARRAY = re.compile(r"(?P<type>[a-z]+[0-9]*)\[(?P<dims>[0-9,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SCRATCH = re.compile(r"\bs8\[\d+\]")  # workspace of a library's kernel, which it may leave unused
_VIEWS = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id")
_RUNS = ("while", "call")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LIBRARIES = {"fmha": "attention", "cublas": "products"}
_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SCOPE = re.compile(r"[a-z_]+")

PARTS = (
    "targets", "negatives", "input", "norm", "projections", "attention", "feed_forward", "last_block", "head",
    "item_tower", "loss", "optimiser",
)  # fmt: skip
"""`jax.named_scope`s of the train step."""


class Instruction(NamedTuple):
    """One line of a computation."""

    line: str
    kind: str
    result_bytes: int
    operand_bytes: int
    flops: float  # of a library's matrix product or fused attention; 0 for all else

    @property
    def name(self) -> str:
        """Its name in a profile."""
        return _INSTRUCTION.match(self.line)["name"]  # ty: ignore[not-subscriptable]

    @property
    def group(self) -> str:
        """products or attention, if a library computes it; else rest."""
        target = _TARGET.search(self.line)
        if target is None:
            return "rest"
        return next((group for word, group in _LIBRARIES.items() if word in target[1]), "rest")

    @property
    def part(self) -> str:
        """The part of the model by its named scopes, such as "last_block/attention" or "norm backward"; "" if
        it has none."""
        found = _OP_NAME.search(self.line)
        path = found[1] if found else ""
        scopes = [scope for scope in _SCOPE.findall(path) if scope in PARTS]
        return "/".join(scopes) + (" backward" if scopes and "transpose(" in path else "")


def executed(hlo: str) -> list[tuple[Instruction, int]]:
    """The instructions that the program runs, each with how often it runs. Views of memory, the loops and
    calls themselves, and the inside of a fusion are left out.

    Raises:
        ValueError: the text has no entry, or a loop whose number of rounds the compiler does not know.
    """
    entry, computations = _computations(hlo)
    found: list[tuple[Instruction, int]] = []

    def run(name: str, times: int) -> None:
        for instruction in computations[name]:
            if instruction.kind in _RUNS:
                rounds = times * _rounds(instruction.line)
                for called in _CALLED.findall(instruction.line):
                    run(called, rounds)
            elif instruction.kind not in _VIEWS:
                found.append((instruction, times))

    run(entry, 1)
    return found


def total(hlo: str, cost: Callable[[Instruction], int]) -> int:
    """Sum of a cost over all instructions that the program runs.

    Raises:
        ValueError: as `executed`.
    """
    return sum(times * cost(instruction) for instruction, times in executed(hlo))


def roofline(hlo: str, flops_per_second: float, bytes_per_second: float) -> dict[str, dict[str, float]]:
    """By group and in all: kernels, FLOPs, bytes and minimum seconds. A kernel's minimum is the larger of its
    FLOPs over the one rate and its bytes over the other."""
    groups: dict[str, dict[str, float]] = {}
    for instruction, times in executed(hlo):
        moved = moved_bytes(instruction)
        least = max(instruction.flops / flops_per_second, moved / bytes_per_second)
        costs = {"kernels": 1, "flops": instruction.flops, "moved_bytes": moved, "seconds": least}
        for group in (instruction.group, "all"):
            sums = groups.setdefault(group, dict.fromkeys(costs, 0))
            for name, cost in costs.items():
                sums[name] += times * cost
    return groups | {"all": groups.pop("all")}  # last in the table


def _rounds(line: str) -> int:
    if " while(" not in line:
        return 1
    if not (trips := _TRIPS.search(line)):
        raise ValueError(f"a loop without a known number of rounds: {line.strip()[:200]}")
    return int(trips[1])


def array_bytes(shape: str) -> int:
    """Bytes of an array such as "f32[8,4]{1,0}", or of all arrays in a tuple."""
    return sum(_bytes(array) for array in _ARRAY.finditer(shape))


def _bytes(array: re.Match[str]) -> int:
    bits = 8 if array["type"] == "pred" else int(re.sub(r"\D", "", array["type"]))
    return math.prod(int(size) for size in array["dims"].split(",") if size) * bits // 8


def kernel(_: Instruction) -> int:
    """1 for each instruction: a GPU starts a kernel for it."""
    return 1


def moved_bytes(instruction: Instruction) -> int:
    """Bytes of all operands and results, each counted once and whole, a look-up's table too."""
    return instruction.operand_bytes + instruction.result_bytes


def _computations(hlo: str) -> tuple[str, dict[str, list[Instruction]]]:
    entry, computations = "", {}
    shapes: dict[str, str] = {}
    lines: list[Instruction] = []
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            lines, shapes = computations.setdefault(head["name"], []), {}
            entry = head["name"] if head["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            shape = _SCRATCH.sub("", found["type"]) if found["kind"] == "custom-call" else found["type"]
            shapes[found["name"]] = shape
            operands = [
                shapes.get(name, "") for name in re.findall(r"%([\w.\-]+)", found["rest"].split(")")[0])
            ]
            read = sum(map(array_bytes, operands))
            flops = _flops(line, shape, operands)
            lines.append(Instruction(line, found["kind"], array_bytes(shape), read, flops))
    if not entry:
        raise ValueError("the text is no compiled program: it has no ENTRY")
    return entry, computations


def _flops(line: str, result: str, operands: list[str]) -> float:
    """2 m k n of a matrix product. Fused causal attention has half of that for each of its products, two
    forward and five backward, which computes the scores again."""
    target = _TARGET.search(line)
    if target is None or not operands or not (first := _ARRAY.search(operands[0])):
        return 0.0
    dims = [int(size) for size in first["dims"].split(",") if size]
    if "fmha" in target[1] and len(dims) == 4:
        users, length, heads, width = dims
        return (5 if "Backward" in target[1] else 2) * users * heads * length**2 * width
    if (contracted := _CONTRACTED.search(line)) and (written := _ARRAY.search(result)):
        inner = math.prod(dims[int(axis)] for axis in re.findall(r"\d+", contracted[1]))
        return 2.0 * inner * math.prod(int(size) for size in written["dims"].split(",") if size)
    return 0.0
