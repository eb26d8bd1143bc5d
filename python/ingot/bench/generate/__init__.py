"""How fast a language model generates text: prompt lengths, output lengths and batch sizes, beside other programs (``ingot bench --generate``).

Texts of a case start together. One case runs in one program after the other, each in a process of its own, and they take turns.
"""

from ingot.bench.generate.contestants import peer
from ingot.bench.generate.picture import draw, need_matplotlib
from ingot.bench.generate.sweep import Case, Round, cases, measure, summary
from ingot.bench.generate.table import COLUMNS, EXPLAINED, rows

__all__ = ["COLUMNS", "EXPLAINED", "Case", "Round", "cases", "draw", "measure", "need_matplotlib", "peer", "rows", "summary"]
