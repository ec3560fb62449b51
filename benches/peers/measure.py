"""Runs processes by turns and keeps what they report."""

import json
import os
import subprocess
import sys
import tempfile
import time

from .prepare import BENCHES


def once(process):
    """({case: [seconds of each call]}, peak bytes, version or None) of one process, from its start to its end."""
    command = [str(part) for part in process.command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=BENCHES, stdout=out, stderr=err, env={**os.environ, **process.environment})
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        out.seek(0), err.seek(0)
        if child.returncode is None:
            child.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise SystemExit(f"failed: {' '.join(command)}\n{err.read()[-3000:]}")
        if process.wall:
            return {"wall": [wall]}, usage.ru_maxrss * 1024, None
        found = json.loads(out.read().splitlines()[-1])
        return found["seconds"], usage.ru_maxrss * 1024, found["version"]


def by_turns(processes, rounds, results):
    """Adds to `results`: {case: {side: {"seconds": an item, …, "peak": bytes, "rounds": …, "version": …}}}."""
    if processes[0].wall:
        # Files come from the page cache, for all sides alike.
        for process in processes:
            once(process)
    for _ in range(rounds):
        for process in processes:
            seconds, peak, version = once(process)
            for key, (case, items) in process.cases.items():
                side = results.setdefault(case, {}).setdefault(process.side, {"seconds": [], "peak": 0})
                side["seconds"] += [t / items for t in seconds[key]]
                side["peak"] = max(side["peak"], peak)
                side["rounds"] = side.get("rounds", 0) + 1
                side |= {"version": version} if version else {}
        print(".", end="", file=sys.stderr, flush=True)
    print(f" {', '.join(case for case, _ in processes[0].cases.values())}", file=sys.stderr)
