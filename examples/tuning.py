#!/usr/bin/env python3
"""Real few-shot tuning on small data: the tables of docs/tuning.md.

    python3 examples/tuning.py DATA --binary target/release/clip-cli --work DIR [--dual MODEL] [--figures docs/figures]

DATA holds the folders clothing10, sign-digits and cifar10, each with train/ and test/ class folders. MODEL is the
DINOv2 and MiniLM of examples/dual.py: the model of methods that put tokens into the image tower. Test images are read
after the last step alone, and choose nothing. Every run is kept in DIR and not made again; cells without one stay
blank. Standard library alone.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import time

SETS = ["clothing10", "sign-digits", "cifar10"]
TEMPLATES = {
    "clothing10": "a photo of a {}.",
    "sign-digits": "a photo of a hand showing the number {}.",
    "cifar10": "a photo of a {}.",
}
ANY = ["zeroshot", "coop", "cocoop", "kgcoop", "prograd", "pre", "tip", "tip-f", "clip-adapter", "linear-probe", "lora",
       "layernorm", "bitfit", "tfup", "close"]
DEEP = ["vpt", "ivlp", "maple", "promptsrc", "restore"]
# Where the authors' number of steps is for a GPU. With an EfficientNet trained, too, a step takes ten times longer, and fifty
# steps at the recipes' rates (of thousands of steps) move nothing.
TEXT_TOWER = ["--epochs", "50", "--lr", "2e-3", "--method-opt", "tower=2"]
FEWER = {"cocoop": ["--epochs", "3", "--batch-size", "8"], "lora": TEXT_TOWER, "layernorm": TEXT_TOWER, "bitfit": TEXT_TOWER}
SHOTS = ["coop", "kgcoop", "prograd", "pre", "tip", "tip-f", "clip-adapter", "linear-probe"]
BASE_TO_NEW = ["coop", "cocoop", "kgcoop", "maple", "promptsrc", "tip-f", "lora"]


class Report:
    def __init__(self, arguments):
        self.data, self.binary, self.work, self.dual = arguments.data, arguments.binary, arguments.work, arguments.dual
        self.seeds, self.until, self.now = arguments.seeds, time.time() + 60 * arguments.minutes, arguments.sets
        self.common = ["--image-size", str(arguments.dual_size)] if arguments.dual_size else []

    def run(self, method, where, shots=16, model=None, extra=()):
        """What a run says, a list of lines; None where there is none and no time left for it."""
        command = ["tune", "--method", method, "--data", str(self.data / where / "train"), "--eval-data",
                   str(self.data / where / "test"), "--shots", str(shots), "--seeds", self.seeds, "--templates",
                   TEMPLATES[where], *(["--model", str(model), *self.common] if model else []), *FEWER.get(method, []), *extra]
        place = self.work / hashlib.sha256(repr(command).encode()).hexdigest()[:12]
        if not (place / "results.json").exists():
            if time.time() > self.until or where not in self.now:
                return None
            shutil.rmtree(place, ignore_errors=True)
            done = subprocess.run([self.binary, *command, "--output", str(place), "--quiet"], capture_output=True, text=True)
            if done.returncode not in (0, 1):
                print(f"<!-- {' '.join(command)}\n{done.stderr} -->", flush=True)
                return None
        return json.loads((place / "results.json").read_text())["lines"]

    def sixteen(self, methods, model):
        print("| method | " + " | ".join(SETS) + " | trained numbers | seconds |")
        print("|---|" + "---|" * len(SETS) + "---|---|")
        for method in methods:
            found = [self.run(method, where, model=model) for where in SETS]
            if not any(found):
                continue
            any_ = next(lines for lines in found if lines)
            seconds = [line["seconds"] for lines in found if lines for line in lines]
            cells = [cell([line["acc1"] for line in lines]) if lines else "" for lines in found]
            if method == "zeroshot":
                cells = [cell([lines[0]["acc1"]]) if lines else "" for lines in found]
            print(f"| {method} | " + " | ".join(cells) + f" | {any_[0]['parameters']:,} | {statistics.mean(seconds):.0f} |", flush=True)

    def shots(self, where, figure):
        counts = [1, 2, 4, 8, 16]
        print("| method | " + " | ".join(f"{n}" for n in counts) + " |")
        print("|---|" + "---|" * len(counts))
        curves = []
        for method in SHOTS:
            found = [self.run(method, where, shots) for shots in counts]
            points = [(n, [line["acc1"] for line in lines]) for n, lines in zip(counts, found) if lines]
            curves.append((method, points))
            print(f"| {method} | " + " | ".join(cell([x["acc1"] for x in lines]) if lines else "" for lines in found) + " |", flush=True)
        zero = self.run("zeroshot", where)
        if figure:
            plot(figure, f"{where}: accuracy against shots", curves, zero[0]["acc1"] if zero else None)

    def base_to_new(self, where):
        print("| method | model | base | new | harmonic mean |\n|---|---|---|---|---|")
        for method in BASE_TO_NEW:
            model = self.dual if method in DEEP else None
            if method in DEEP and not model:
                continue
            lines = self.run(method, where, model=model, extra=["--split", "base"])
            if not lines:
                continue
            base = [line["acc1"] for line in lines if "new" not in line["set"]]
            new = [line["acc1"] for line in lines if "new" in line["set"]]
            zero = [line["zeroshot_acc1"] for line in lines[:2]]
            means = [2 * b * n / (b + n) if b + n else 0.0 for b, n in zip(base, new)]
            name = "DINOv2 + MiniLM" if model else "built-in"
            print(f"| {method} | {name} | {cell(base)} | {cell(new)} | {cell(means)} |", flush=True)
            if method in ("coop", "maple") and len(zero) == 2:
                mean = 2 * zero[0] * zero[1] / sum(zero)
                print(f"| zeroshot | {name} | {cell(zero[:1])} | {cell(zero[1:])} | {cell([mean])} |", flush=True)


def cell(values):
    if not values:
        return ""
    values = [100 * value for value in values]
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


COLOURS = ["#4a90d9", "#d9534a", "#4ab36b", "#b07cc6", "#d99b4a", "#4abfbf", "#8a8a4a", "#c64a8a"]


def plot(path, title, curves, zero):
    """Accuracy over shots (a logarithmic axis), the range over seeds as a bar."""
    width, height, left, bottom = 560, 360, 50, 40
    values = [v for _, points in curves for _, cell_ in points for v in cell_] + ([zero] if zero else [])
    low, high = min(values) - 0.02, max(values) + 0.02
    x = lambda n: left + (width - left - 150) * (n.bit_length() - 1) / 4
    y = lambda v: 30 + (height - 30 - bottom) * (high - v) / (high - low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12" fill="#888">',
           f'<text x="{left}" y="18">{title}, %</text>']
    for n in (1, 2, 4, 8, 16):
        out.append(f'<text x="{x(n)}" y="{height - 14}" text-anchor="middle">{n}</text>')
    for i in range(5):
        v = low + (high - low) * i / 4
        out.append(f'<text x="{left - 8}" y="{y(v) + 4:.0f}" text-anchor="end">{100 * v:.0f}</text>')
    if zero:
        out.append(f'<line x1="{left}" x2="{x(16)}" y1="{y(zero):.1f}" y2="{y(zero):.1f}" stroke="#888" stroke-dasharray="3 3"/>')
        out.append(f'<text x="{x(16) + 8}" y="{y(zero) + 4:.1f}">zero-shot</text>')
    for i, ((name, points), colour) in enumerate(zip(curves, COLOURS)):
        line = " ".join(f"{x(n):.1f},{y(statistics.mean(cell_)):.1f}" for n, cell_ in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for n, cell_ in points:
            out.append(f'<line x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{y(min(cell_)):.1f}" y2="{y(max(cell_)):.1f}" stroke="{colour}"/>')
        out.append(f'<text x="{width - 90}" y="{44 + 16 * i}" fill="{colour}">{name}</text>')
    pathlib.Path(path).write_text("\n".join([*out, "</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--binary", default="target/release/clip-cli", type=os.path.abspath)
    parser.add_argument("--work", default="tuning-report", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--dual", type=lambda path: pathlib.Path(path).resolve(), help="the model of examples/dual.py")
    parser.add_argument("--dual-size", type=int, help="another input size for it")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--minutes", type=float, default=180, help="no run begins after so many")
    parser.add_argument("--only", nargs="*", default=["sixteen", "deep", "shots", "base-to-new"])
    parser.add_argument("--sets", nargs="*", default=SETS, help="run these now; others are shown if they are there")
    parser.add_argument("--methods", nargs="*", help="of the methods, these")
    parser.add_argument("--figures", type=pathlib.Path, help="where figures go")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    report = Report(arguments)
    pick = lambda methods: [name for name in methods if not arguments.methods or name in arguments.methods]
    if "sixteen" in arguments.only:
        print("\n### 16 shots, built-in model: test accuracy\n")
        report.sixteen(pick(ANY), None)
    if "deep" in arguments.only and arguments.dual:
        print("\n### 16 shots, DINOv2 and MiniLM: test accuracy\n")
        report.sixteen(pick(["zeroshot", "coop", "linear-probe", *DEEP]), arguments.dual)
    if "shots" in arguments.only:
        print("\n### 1 to 16 shots, built-in model, clothing10: test accuracy\n")
        report.shots("clothing10", arguments.figures and arguments.figures / "tuning-shots.svg")
    if "base-to-new" in arguments.only:
        print("\n### Base to new, clothing10, 16 shots: test accuracy\n")
        report.base_to_new("clothing10")


if __name__ == "__main__":
    main()
