"""The benchmark: what a gateway costs and adds, beside nginx as the floor, direct as the baseline, and peers that are installed.

    python tests/bench/run.py                               every section, then what must hold: 10 to 15 minutes
    python tests/bench/run.py unary streams                 these sections: SECTIONS
    python tests/bench/run.py targets --strict              what the targets need, then the targets; exit code 1 if one is missed
    python tests/bench/run.py --quick                       short loads, one round: to see that all works, not to compare
    python tests/bench/run.py --peer litellm=/opt/l/bin/litellm     where a peer is that is not in the PATH (NAMES)
    python tests/bench/run.py reload [--help]               what a reload costs

Prints one table and writes the same as JSON. Each gateway has one core, the load and the mock upstream another; CPU is that of
the gateway's whole process tree, from /proc. "full load" is a fixed concurrency: each connection asks again when it is answered.
"calm" is an open loop: so many requests a second whatever becomes of them. Added times (+) are through the gateway minus direct,
under the same load in the same round; figures are medians over rounds. One failed request voids its row; the exit code
is 1 then, unless it is a peer's.
Figures compare only within one run on one machine. routerd runs with everything on (routes.yaml), nginx is a pure proxy, peers
run as they are shipped. Needs a C compiler and nginx (apt-get install gcc libc6-dev nginx-light).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.bench import reload, rig
from tests.bench.gateways import PEERS
from tests.bench.lab import Lab, Plan, say
from tests.bench.report import Row, Target, table, target_table
from tests.bench.sections import FOR_TARGETS, SECTIONS
from tests.bench.targets import targets

TARGETS = "targets"


def main() -> int:
    """Measure, print the table, write the JSON."""
    if sys.argv[1:2] == ["reload"]:
        return reload.main(sys.argv[2:])
    args = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    asked = args.sections or [*SECTIONS, TARGETS]
    names = [name for name in SECTIONS if name in asked or (TARGETS in asked and name in FOR_TARGETS)]
    plan = Plan(
        seconds=0.5 if args.quick else args.seconds,
        rounds=1 if args.quick else args.rounds,
        peers=dict(args.peer),
        streams=args.streams,
        pace_us=round(1e6 / args.pace),
    )
    began_s = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="routerd-bench-") as scratch:
            rows = measure(names, pathlib.Path(scratch), plan)
    except rig.Void as void:
        print(f"the benchmark cannot run: {void}", file=sys.stderr)
        return 2
    found = targets(rows) if TARGETS in asked else []
    print(table(rows))
    if found:
        print("\n" + target_table(found))
    say(f"{time.monotonic() - began_s:.0f} s")
    write(args, rows, found)
    failed = any(row.void and row.gateway not in PEERS for row in rows)  # that a peer cannot is a finding, not a fault of the run
    return int(failed or (args.strict and not all(one.held for one in found)))


def measure(names: Sequence[str], directory: pathlib.Path, plan: Plan) -> list[Row]:
    """Run these sections, one after the other, with one mock upstream."""
    lab = Lab(directory, plan)
    rows: list[Row] = []
    try:
        for name in names:
            try:
                rows += SECTIONS[name](lab)
            except rig.Void as void:
                rows.append(Row(section=name, case="", gateway="routerd", void=str(void)))
            lab.stop()
    finally:
        lab.close()
    return rows


def write(args: argparse.Namespace, rows: Sequence[Row], found: Sequence[Target]) -> None:
    """Write the JSON."""
    args.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": len(rig.CORES), "kernel": platform.release(), "python": platform.python_version(), "load": _load()}
    plan = {key: value for key, value in vars(args).items() if key != "json"}
    told = {
        "machine": machine,
        "plan": plan,
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(one) | {"held": one.held} for one in found],
    }
    args.json.write_text(json.dumps(told, indent=2) + "\n")


def _load() -> str:
    return pathlib.Path("/proc/loadavg").read_text().strip()


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    text = (__doc__ or "").replace("SECTIONS", ", ".join(SECTIONS)).replace("NAMES", ", ".join(PEERS))
    parser = argparse.ArgumentParser(prog="run.py", description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS, TARGETS], metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one load is")
    parser.add_argument("--rounds", type=int, default=3, help="how often each gateway has its turn; figures are medians")
    parser.add_argument("--quick", action="store_true", help="half a second, one round")
    parser.add_argument("--streams", type=int, default=2000, help="of the section many")
    parser.add_argument("--pace", type=float, default=10.0, help="chunks a second of each of them")
    parser.add_argument("--peer", type=_named, action="append", default=[], metavar="NAME=PATH", help="a peer's command")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed or was not measured")
    parser.add_argument("--json", type=pathlib.Path, default=rig.HERE / "results" / "latest.json", help="where the figures go")
    return parser.parse_args(argv)


def _named(text: str) -> tuple[str, str]:
    name, found, path = text.partition("=")
    if name not in PEERS or not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with one of {', '.join(PEERS)}")
    return name, path


if __name__ == "__main__":
    sys.exit(main())
