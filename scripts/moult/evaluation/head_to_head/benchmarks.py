"""The kinds of head-to-head suites. A new kind is a `Benchmark` in a module of its own, and its name here."""

from moult.evaluation.head_to_head.alpaca import ALPACA
from moult.evaluation.head_to_head.arena import ARENA
from moult.evaluation.head_to_head.mt import MT

BENCHMARKS = {one.name: one for one in (ALPACA, ARENA, MT)}
