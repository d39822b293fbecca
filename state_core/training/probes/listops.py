"""ListOps (Nangia and Bowman, arXiv 1804.06028): nested operations on digits, exactly evaluated.

    [MAX 2 9 [MIN 4 7 ] 0 ] = 9

MAX, MIN, MED (the median, rounded down) and SM (the sum modulo 10) take digits or expressions. The
value is the last token of the text, and asked for; what is left of the length is padding in front.

All texts of a batch are written side by side, one token at a time, and evaluated while they are:
each holds a stack of the expressions that are open, with the values that they have so far.

N texts, T tokens, D expressions inside each other at most, A arguments of one at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from state_core.training.probes.batch import Ids, ProbeBatch, asked, generator, require

DIGITS = 10
MAX, MIN, MED, SM, CLOSE, EQUALS, PAD = range(DIGITS, DIGITS + 7)
NAMES = (*map(str, range(DIGITS)), "[MAX", "[MIN", "[MED", "[SM", "]", "=", "…")
"""How each id is written."""


@dataclass(frozen=True)
class ListOps:
    """Expressions of 2 to `arguments` arguments, each of them an expression with probability
    `nesting` as long as fewer than `depth` are open and the text has room. ConfigError if the
    length has no room for one of the longest."""

    length: int = 128
    depth: int = 6
    arguments: int = 5
    nesting: float = 0.35

    vocab_size: ClassVar[int] = len(NAMES)

    def __post_init__(self) -> None:
        require(self.depth >= 1, "listops", f"depth must be ≥ 1, got {self.depth}")
        require(self.arguments >= 2, "listops", f"arguments must be ≥ 2, got {self.arguments}")
        require(0 <= self.nesting <= 1, "listops", f"nesting is a probability, got {self.nesting}")
        shortest = self.arguments + 4
        require(
            self.length >= shortest,
            "listops",
            f"one expression of {self.arguments} arguments and its value need a length of "
            f"{shortest}, got {self.length}",
        )

    def batch(self, n: int, seed: int) -> ProbeBatch:
        """`n` texts of `length`; distance is how long the expression is, from its value back."""
        writer = _Writer(self, n, generator("listops", n, seed))
        written = [writer.write() for _ in range(self.length - 2)]
        size = writer.size
        # What was written moves to the right, before the value.
        source = np.arange(self.length - 2) - (self.length - 2 - size)[:, None]
        text = np.stack(written, axis=1)
        text = np.where(source < 0, PAD, np.take_along_axis(text, source.clip(0), axis=1))
        ids = np.column_stack([text, np.full(n, EQUALS), writer.value])
        distance = np.zeros_like(ids)
        distance[:, -1] = size + 1
        return asked(ids, distance)


class _Writer:
    """N expressions under way. At level d, an open one has the operator `op[:, d]`, wants `want`
    arguments and has `have` of them, with the values `values[:, d]` [N,A]."""

    def __init__(self, probe: ListOps, n: int, rng: np.random.Generator) -> None:
        self.probe, self.rng = probe, rng
        self.rows = np.arange(n)
        self.op = np.zeros((n, probe.depth), np.int64)
        self.want, self.have = np.zeros_like(self.op), np.zeros_like(self.op)
        self.values = np.zeros((n, probe.depth, probe.arguments), np.int64)
        self.open = np.zeros(n, np.int64)
        self.left = np.full(n, probe.length - 2)
        self.owed = np.zeros(n, np.int64)
        self.size = np.zeros(n, np.int64)
        self.value = np.full(n, -1)

    def write(self) -> Ids:
        """The next token of each text, [N]; PAD after its end."""
        n, probe = len(self.rows), self.probe
        done = self.value >= 0
        level = np.maximum(self.open - 1, 0)
        full = self.have[self.rows, level] == self.want[self.rows, level]
        closes = ~done & (self.open > 0) & full
        count = self.rng.integers(2, probe.arguments + 1, n)
        # An expression takes an argument's place: it costs its operator and arguments more.
        room = self.owed + 1 + count <= self.left
        nests = (self.rng.random(n) < probe.nesting) & (self.open < probe.depth) & room
        opens = ~done & ~closes & (nests | (self.open == 0))
        says = ~done & ~closes & ~opens

        digit = self.rng.integers(0, DIGITS, n)
        operator = self.rng.integers(MAX, SM + 1, n)
        self._open(self.rows[opens], operator[opens], count[opens])
        self._give(self.rows[says], digit[says])
        self._close(self.rows[closes])
        self.size += ~done
        self.left -= ~done
        return np.select([opens, says, closes], [operator, digit, CLOSE], PAD)

    def _open(self, rows: Ids, operator: Ids, count: Ids) -> None:
        level = self.open[rows]
        self.op[rows, level], self.want[rows, level], self.have[rows, level] = operator, count, 0
        # Owed: the arguments and brackets that are still to come, were all of them digits.
        self.owed[rows] += np.where(level == 0, count + 1, count)
        self.open[rows] += 1

    def _give(self, rows: Ids, value: Ids) -> None:
        """One more argument for the innermost expression."""
        level = self.open[rows] - 1
        self.values[rows, level, self.have[rows, level]] = value
        self.have[rows, level] += 1
        self.owed[rows] -= 1

    def _close(self, rows: Ids) -> None:
        level = self.open[rows] - 1
        value = _evaluate(self.op[rows, level], self.values[rows, level], self.have[rows, level])
        self.open[rows] -= 1
        outermost = level == 0
        self.value[rows[outermost]] = value[outermost]
        # Its value is an argument of the expression around it, and its bracket was owed.
        self._give(rows[~outermost], value[~outermost])


def _evaluate(op: Ids, values: Ids, count: Ids) -> Ids:
    """The value [n] of each operator [n] on the first `count` [n] of its values [n,A]."""
    real = np.arange(values.shape[1]) < count[:, None]
    ordered = np.sort(np.where(real, values, DIGITS), axis=1)
    middle = np.stack([(count - 1) // 2, count // 2], axis=1)
    median = np.take_along_axis(ordered, middle, axis=1).sum(axis=1) // 2
    largest = np.take_along_axis(ordered, count[:, None] - 1, axis=1)[:, 0]
    total = np.where(real, values, 0).sum(axis=1) % DIGITS
    return np.select([op == MAX, op == MIN, op == MED], [largest, ordered[:, 0], median], total)
