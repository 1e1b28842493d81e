"""What a request and a chunk cost, counted: the same on a busy machine and on an idle one, so a change of 1 % shows.

    python tests/bench/count.py                        every case, beside its ceilings
    python tests/bench/count.py "unary, ledger" chunk  these cases (a name, or how it begins)
    python tests/bench/count.py chunk --where 25       the functions that a case spends its bytecodes in, the dearest first
    python tests/bench/count.py --syscalls             system calls of a real worker too (needs strace and a C compiler)
    python tests/bench/count.py --write                make what is counted the new ceilings (counts.json), after a gain

The tests fail when a figure passes its ceiling by more than 3 %. Bytecodes are not time: what they say of two versions of the
same code is trustworthy, what they say of a C library is nothing. Exit code 1 when a ceiling is passed.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.bench.counting import ceilings
from tests.bench.counting.meters import count, profile
from tests.bench.counting.stage import CASES
from tests.bench.counting.syscalls import syscall_figures, syscalls

SHOWN = ("bytecodes", "library_bytecodes", "calls", "task_steps", "callbacks", "futures", "writes", "blocks_kept", "peak_bytes")


def chosen(wanted: Sequence[str]) -> list[str]:
    """Return the names of the cases that are asked for; SystemExit for a word that fits none."""
    names = [name for name in CASES if not wanted or name in wanted or any(name.startswith(word) for word in wanted)]
    if not names:
        raise SystemExit(f"no case is called {wanted[0]!r}; there are: {'; '.join(CASES)}")
    return [name for name in names if name in wanted] or names


def show(counted: Mapping[str, Mapping[str, float]]) -> str:
    """Render the figures in columns; beside each that differs from its ceiling, by how much."""
    known = ceilings.read()
    rows = [["case", *(name.replace("_", " ") for name in SHOWN)]]
    for case, figures in counted.items():
        cells = []
        for name in SHOWN:
            value, ceiling = figures.get(name, 0.0), known.get(case, {}).get(name, 0.0)
            change = f" ({value / ceiling - 1:+.1%})" if ceiling and abs(value / ceiling - 1) > 0.0005 else ""
            cells.append(f"{value:g}{change}")
        rows.append([case, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> int:
    """Count, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--where", type=int, default=0, metavar="N", help="the N dearest functions of each case")
    parser.add_argument("--syscalls", action="store_true", help="system calls of a real worker")
    parser.add_argument("--write", action="store_true", help="make these figures the ceilings")
    args = parser.parse_args()
    names = chosen(args.cases)
    if args.where:
        for name in names:
            functions = profile(CASES[name])
            print(f"{name}: {sum(n for n, _ in functions):.0f} bytecodes")
            print("\n".join(f"{n:8.1f}  {where}" for n, where in functions[: args.where]))
        return 0
    counted = {name: count(CASES[name]) for name in names}
    print(show(counted))
    if args.syscalls:
        with tempfile.TemporaryDirectory(prefix="routerd-count-") as scratch:
            calls = syscalls(pathlib.Path(scratch))
        for name, found in calls.items():
            print(f"system calls for 100 x {name}: {', '.join(f'{n} {call}' for call, n in found.most_common() if n)}")
        counted |= syscall_figures(calls)
    if args.write:
        ceilings.write(counted)
        return 0
    known = ceilings.read()
    worse = [f"{case}: {line}" for case, figures in counted.items() for line in ceilings.over(figures, known[case])]
    print("\n".join(worse) or "no ceiling is passed")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
