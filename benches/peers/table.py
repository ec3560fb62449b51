"""Results as the Markdown tables of docs/performance.md."""

import platform
import statistics
import subprocess
from pathlib import Path

from . import floor

BEGIN, END = "<!-- bench-peers: {} -->", "<!-- end of bench-peers -->"
COLUMNS = ["", "here", "best peer", "ratio", "goal", "rounds", "all peers"]


def line(cells):
    return f"| {' | '.join(cells)} |"


def number(row, side):
    """Milliseconds an item, or megabytes."""
    return side["peak"] / 1e6 if row.of == "peak" else statistics.median(side["seconds"]) * 1e3


def short(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 1 else f"{x:.2f}"


def ratio(value, goal):
    return f"**{value:.2f}**" if value <= goal else f"{value:.2f}"


def rows(row, cases):
    for case, sides in cases.items():
        numbers = {side: number(row, found) for side, found in sides.items()}
        ours = numbers.pop("clip-cli", None)
        here = short(ours) if ours is not None else "not yet"
        rounds = str(max(found.get("rounds", 1) for found in sides.values()))
        for peers, goal in row.goals:
            among = {side: numbers[side] for side in peers if side in numbers}
            if not among:
                continue
            best = min(among, key=among.get)
            held = [ratio(ours / among[best], goal), f"{goal:.2f}"] if ours is not None else ["", f"{goal:.2f}"]
            others = ", ".join(f"{side} {short(x)}" for side, x in sorted(among.items(), key=lambda pair: pair[1]))
            yield [case, here, f"{short(among[best])} {best}", *held, rounds, others]
        if case in row.limits:
            limit = row.limits[case] * 1e3
            yield [case, here, "", ratio(ours / limit, 1), f"{limit:.0f} ms", rounds, ""]


def training(cases):
    for case, sides in cases.items():
        ours, torch = sides["clip-cli"], sides["torch"]
        for what, goal, of in [("s a step", 1.0, lambda s: s["seconds"][0]), ("GB", 0.7, lambda s: s["peak"] / 1e9)]:
            a, b = of(ours), of(torch)
            yield [f"{case}, {what}", f"{a:.2f}", f"{b:.2f} torch eager", ratio(a / b, goal), f"{goal:.2f}", "1", ""]


def processor():
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = Path("/proc/cpuinfo").read_text()
    has = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if f" {flag} " in flags.replace("\n", " \n")]
    return f"{names[0] if names else platform.processor()}, {len(names)} processors ({', '.join(has)})"


def markdown(results, rows_known):
    about = results["about"]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = {
        found.get("version") for cases in results["rows"].values() for sides in cases.values() for found in sides.values()
    } - {None}
    parts = sorted({part for version in versions for part in version.split(", ")})
    out = [
        f"### {processor()}",
        f"{about['date']}, commit {commit}, {about['threads']} threads, "
        f"{'`--quick`, ' if about['quick'] else ''}by turns. {', '.join(parts)}.",
    ]
    for name in [*rows_known, "training"]:
        cases, row = results["rows"].get(name), rows_known.get(name)
        if not cases:
            continue
        title = row.title if row else "training, one step"
        unit = "" if not row else " (MB)" if row.of == "peak" else " (ms an item)"
        body = training(cases) if name == "training" else rows(row, cases)
        header = [line([f"{title}{unit}", *COLUMNS[1:]]), line(["---"] * len(COLUMNS))]
        out.append("\n".join([*header, *map(line, body)]))
    if "machine" in results:
        out += limits(results["machine"], results["rows"])
    return "\n\n".join(out)


def limits(machine, measured):
    """What the processor gives, and what that makes of each tower."""
    head = ["the processor's most, threads", "f32 GFLOP/s", "int8 GOP/s (VNNI)", "memory read GB/s", "copied GB/s"]
    keys = ["f32_gflops", "int8_gops", "read_gbps", "copy_gbps"]
    body = [[n, *(f"{figures[key]:.0f}" for key in keys)] for n, figures in machine.items()]
    yield "\n".join(map(line, [head, ["---"] * 5, *body]))
    best = {}
    for name, suffix in [("forward", ""), ("text", " text, 8 tokens")]:
        for case, sides in measured.get(name, {}).items():
            tower = case.split(",")[0] + suffix
            times = sides.get("clip-cli", {}).get("seconds", [])
            best[tower] = min([*times, best.get(tower, float("inf"))])
    head = ["tower", "GFLOP an item", "with the read token alone in the last block"]
    head += [f"floor, {n} thread{'s' * (n != '1')}, ms" for n in machine] + ["least measured here, ms; share of the floor"]
    yield "\n".join(map(line, [head, ["---"] * len(head), *floor.rows(machine, best)]))


def write(path, text):
    """Between the markers of this processor in a document, which get their place before all others' if there are none."""
    begin, document = BEGIN.format(processor()), path.read_text()
    if begin not in document:
        first = document.index(BEGIN.partition("{")[0])
        document = f"{document[:first]}{begin}\n\n{END}\n\n{document[first:]}"
    before, _, rest = document.partition(begin)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
