"""Two sides of one benchmark by turns, each as processes of its own, and one table with their ratio."""

import argparse
import json
import os
import statistics
import subprocess
import sys


def interleaved(parser, torch_side, ours, steps, rounds):
    """Parses the command line and runs both sides so many times.

    `torch_side` runs in a process of its own and prints {"seconds": [of each step], "peak": bytes} as its last line;
    `ours` starts the program and returns the same. Both get the arguments.
    """
    parser.add_argument("--binary", default="target/release/clip-cli", type=os.path.abspath)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_side:
        return torch_side(arguments)
    found = {"torch": [], "clip-cli": []}
    for _ in range(arguments.rounds):
        out = subprocess.run([sys.executable, *sys.argv, "--torch-side"], capture_output=True, text=True)
        if out.returncode:
            raise SystemExit(out.stderr)
        found["torch"].append(json.loads(out.stdout.splitlines()[-1]))
        found["clip-cli"].append(ours(arguments))
    print("| | seconds a step, median | least | peak memory |\n|---|---|---|---|")
    summary = {}
    for name, runs in found.items():
        times = [t for one in runs for t in one["seconds"]]
        summary[name] = (statistics.median(times), min(times), max(one["peak"] for one in runs))
        median, least, peak = summary[name]
        print(f"| {name} | {median:.2f} | {least:.2f} | {peak / 1e9:.2f} GB |")
    a, b = summary["clip-cli"], summary["torch"]
    print(f"| ratio | {a[0] / b[0]:.2f} | {a[1] / b[1]:.2f} | {a[2] / b[2]:.2f} |")
