"""What a compiled program costs by its own text: each loop's body as often as it runs."""

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
_SCRATCH = re.compile(r"\bs8\[\d+\]")  # what a library's kernel may use, or not
_VIEWS = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id")
_RUNS = ("while", "call")


class Instruction(NamedTuple):
    """One line of a computation."""

    line: str
    kind: str
    result_bytes: int
    operand_bytes: int


def total(hlo: str, cost: Callable[[Instruction], int]) -> int:
    """Sum of what the instructions cost that the program runs, loops' as often as they go round.

    Args:
        hlo: text of the compiled program.
        cost: of one instruction that is neither a view of memory nor a loop or call. What is inside a fusion
            is no instruction of its own.

    Raises:
        ValueError: the text has no entry, or a loop whose number of rounds the compiler does not know.
    """
    entry, computations = _computations(hlo)
    sums: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in sums:
            sums[name] = sum(
                cost(instruction) if instruction.kind not in _RUNS else called(instruction.line)
                for instruction in computations[name]
                if instruction.kind not in _VIEWS
            )
        return sums[name]

    def called(line: str) -> int:
        rounds = 1
        if " while(" in line:
            if not (trips := _TRIPS.search(line)):
                raise ValueError(f"a loop without a known number of rounds: {line.strip()[:200]}")
            rounds = int(trips[1])
        return rounds * sum(of(name) for name in _CALLED.findall(line))

    return of(entry)


def array_bytes(shape: str) -> int:
    """Of an array such as "f32[8,4]{1,0}", or of all arrays in a tuple."""
    return sum(_bytes(array) for array in _ARRAY.finditer(shape))


def _bytes(array: re.Match[str]) -> int:
    bits = 8 if array["type"] == "pred" else int(re.sub(r"\D", "", array["type"]))
    return math.prod(int(size) for size in array["dims"].split(",") if size) * bits // 8


def kernel(_: Instruction) -> int:
    """Each counts one: what a GPU must start."""
    return 1


def moved_bytes(instruction: Instruction) -> int:
    """Operands read and results written, each once and whole; a look-up's table too."""
    return instruction.operand_bytes + instruction.result_bytes


def _computations(hlo: str) -> tuple[str, dict[str, list[Instruction]]]:
    entry, computations = "", {}
    sizes: dict[str, int] = {}
    lines: list[Instruction] = []
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            lines, sizes = computations.setdefault(head["name"], []), {}
            entry = head["name"] if head["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            shape = _SCRATCH.sub("", found["type"]) if found["kind"] == "custom-call" else found["type"]
            sizes[found["name"]] = array_bytes(shape)
            operands = re.findall(r"%([\w.\-]+)", found["rest"].split(")")[0])
            read = sum(sizes.get(operand, 0) for operand in operands)
            lines.append(Instruction(line, found["kind"], sizes[found["name"]], read))
    if not entry:
        raise ValueError("the text is no compiled program: it has no ENTRY")
    return entry, computations
