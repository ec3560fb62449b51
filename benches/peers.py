#!/usr/bin/env python3
"""clip-cli beside its peers on the CPU: forwards, files, start, memory, training; one Markdown table.

    python benches/peers.py [--quick] [--only ROW ...] [--table] [--write docs/performance.md]

`just bench-peers` makes the environment and builds what is measured. All sides of a row run by turns, as processes of
their own; each leaves out the calls that warm it up. Results are kept as JSON under --work, so that rows measured
later fill the same table. Rows: forward int8 text jpegs one memory builtin threads machine training.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches"))
NAMES = ["forward", "int8", "text", "jpegs", "one", "memory", "builtin", "threads", "machine", "training"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two models, two batch sizes, 64 JPEGs, one round less, no training")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="ROW", help="[default: all, quick all but training]")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="of B/32 SigLIP-B/16 B/16 L/14")
    parser.add_argument("--table", action="store_true", help="measure nothing, print what was measured before")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the markers of this document")
    parser.add_argument("--work", type=lambda p: Path(p).resolve(), default=ROOT / "target/bench-peers")
    parser.add_argument("--checkpoints", type=lambda p: Path(p).resolve(), help="where real.py's are or are made [default: under --work]")
    parser.add_argument("--binary", type=os.path.abspath, default=ROOT / "target/release/clip-cli")
    parser.add_argument("--forward", type=os.path.abspath, help="benches/forward, built [default: the newest]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, help="[default: 3, quick 2]")
    parser.add_argument("--seconds", type=float, help="how long one size is repeated in a process [default: 3, quick 1.5]")
    a = parser.parse_args()
    a.rounds = a.rounds or (2 if a.quick else 3)
    a.seconds = a.seconds or (1.5 if a.quick else 3)
    a.only = a.only or (NAMES[:-1] if a.quick else NAMES)
    a.checkpoints = a.checkpoints or a.work / "checkpoints"
    a.work.mkdir(parents=True, exist_ok=True)
    return a


def main():
    a = arguments()
    from peers import measure, prepare, table, training
    from peers.rows import ROWS

    kept = a.work / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {"rows": {}}
    if not a.table:
        a.forward = a.forward or prepare.forward_binary()
        about = {"threads": a.threads, "rounds": a.rounds, "quick": a.quick}
        results["about"] = about | {"date": datetime.date.today().isoformat()}
        for name in a.only:
            print(name, file=sys.stderr)
            # A case's old figures give way: only those of one run belong together.
            found = {}
            if name == "training":
                training.measure(a, found)
            elif name == "machine":
                results["machine"] = json.loads(prepare.run([a.forward, "machine", "--threads", a.threads]))
            else:
                for processes in list(ROWS[name].processes(a)):
                    measure.by_turns(processes, 1 if ROWS[name].once else a.rounds, found)
            if found:
                results["rows"].setdefault(name, {}).update(found)
            kept.write_text(json.dumps(results, indent=1) + "\n")
    text = table.markdown(results, ROWS)
    print(text)
    if a.write:
        table.write(a.write, text)


if __name__ == "__main__":
    main()
