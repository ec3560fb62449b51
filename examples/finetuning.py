#!/usr/bin/env python3
"""Real learning on small data: the tables of docs/finetuning.md.

    python3 examples/finetuning.py FLICKR8K --binary target/release/clip-cli --work DIR
        [--clothing CLOTHING10 --elsewhere CIFAR10] [--text-model MINILM] [--figures docs/figures]

FLICKR8K holds captions.tsv (filepath, title) and images, which are split once, by a hash of their names: 160 of them are
the test set, which nothing but the last step of each run reads. CLOTHING10 and CIFAR10 hold train/ and test/ class
folders; MINILM is a BERT checkpoint (all-MiniLM-L6-v2), which is put beside the built-in model's EfficientNet with new
projections. Results are kept in DIR: a run that is there already is not made again. Standard library alone.
"""

import argparse
import collections
import hashlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import time

OBJECTIVES = [
    ("clip", []),
    ("clip + smoothing 0.1", ["--loss", "clip", "--loss-opt", "clip.smoothing=0.1"]),
    ("clip, multi-positive", ["--loss", "clip", "--duplicates", "multi"]),
    ("siglip", ["--loss", "siglip"]),
    ("dcl", ["--loss", "dcl"]),
    ("dclw", ["--loss", "dclw"]),
    ("cwcl", ["--loss", "cwcl"]),
    ("cuaxu", ["--loss", "cuaxu"]),
    ("clip + cuaxu", ["--loss", "clip:1,cuaxu:0.5"]),
    ("clip-refine", ["--loss", "clip-refine"]),
    ("isogclr", ["--loss", "isogclr"]),
    ("albef", ["--loss", "albef"]),
    ("sdm", ["--loss", "sdm"]),
    ("distill (itself)", ["--loss", "clip:1,distill:1", "--teacher", "builtin"]),
    ("negclip", ["--loss", "negclip", "--text-negatives", "swap,replace"]),
    ("degla", ["--loss", "degla", "--text-negatives", "swap,replace", "--per-caption", "4"]),
    ("clip, batches of neighbours", ["--mine", "hard"]),
    ("clip, batches of clusters", ["--mine", "cluster"]),
    ("negclip, mined captions", ["--loss", "negclip", "--mine", "columns"]),
    ("clip, queue of 256", ["--extra-negatives", "queue=256"]),
    ("clip, queue and draws", ["--extra-negatives", "queue=256,sample=16"]),
    ("clip, MoCHi", ["--extra-negatives", "queue=256", "--mochi", "64,32,8"]),
]

WHAT = [
    ("all", ["--train", "all"]),
    ("text", ["--train", "text"]),
    ("projections", ["--train", "projections"]),
    ("layernorm", ["--train", "layernorm"]),
    ("lora, rank 8", ["--train", "lora", "--lora-tower", "text", "--lr", "1e-3"]),
]


# Towers that have never met: new projections alone are trained, at a rate for random weights. What holds on to the start,
# or to a tower that is locked, has nothing to hold on to.
PAIR = [row for row in OBJECTIVES if row[0] not in ("cwcl", "clip-refine", "distill (itself)")]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def without(common, options):
    """The common options that the others do not set themselves."""
    pairs = zip(common[::2], common[1::2])
    return [word for name, value in pairs if name not in options for word in (name, value)]


def split(flickr, work):
    rows = (flickr / "captions.tsv").read_text().splitlines()[1:]
    images = sorted({row.split("\t")[0] for row in rows}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    test = set(images[:160])
    for part, keep in (("train", lambda name: name not in test), ("test", lambda name: name in test)):
        lines = ["filepath\ttitle"] + [f"{flickr}/{row}" for row in rows if keep(row.split("\t")[0])]
        (work / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    return work / "train.tsv", work / "test.tsv"


class Report:
    def __init__(self, arguments):
        self.binary, self.work = arguments.binary, arguments.work
        self.seeds = range(arguments.seeds)
        self.train, self.test = split(arguments.flickr, arguments.work)
        self.order = arguments.work / "order.tsv"
        run(self.binary, "negatives", "text", str(self.test), "--per-caption", "1", "--kinds", "swap,replace",
            "--seed", "99", "--output", str(self.order))
        self.common = ["--epochs", str(arguments.epochs), "--batch-size", "64", "--lr", arguments.lr]

    def measure(self, model, order):
        tasks = [("retrieval", str(self.test))] + ([("order", str(self.order))] if order else [])
        found = {}
        for task, table in tasks:
            done = run(self.binary, "eval", task, table, "--model", str(model), "--quiet")
            found.update(json.loads(done)["metrics"])
        return found

    def finetune(self, name, options, seed):
        order = any(word in name for word in ("clip", "degla")) and "refine" not in name
        place = self.place(name, options, seed)
        if not (place / "measured.json").exists():
            if place.exists():
                subprocess.run(["rm", "-rf", str(place)], check=True)
            began = time.time()
            run(self.binary, "finetune", "--train-data", str(self.train), "--output", str(place), "--seed", str(seed),
                "--quiet", *without(self.common, options), *options)
            took = time.time() - began
            found = self.measure(place, order)
            found["seconds"] = took
            lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            best = json.loads((place / "state.json").read_text())["best"]["step"]
            kept = [x["val/agreement"] for x in lines if x["step"] == best and "val/agreement" in x]
            found.update({"agreement": kept[0]} if kept else {})
            (place / "measured.json").write_text(json.dumps(found))
            subprocess.run(["rm", "-rf", str(place / "checkpoints")], check=True)
        return json.loads((place / "measured.json").read_text())

    def place(self, name, options, seed):
        return self.work / "runs" / hashlib.sha256(f"{name}{options}{seed}{self.common}".encode()).hexdigest()[:12]

    def table(self, title, rows, extra, model="builtin", figure=None):
        print(f"\n### {title}\n")
        print("| | image→text R@1 | text→image R@1 | wrong captions told apart | same class as the start | seconds |")
        print("|---|---|---|---|---|---|")
        shown = [("before training", [self.measure(model, True)])]
        print(self.line(*shown[0]))
        for name, options in rows:
            found = [self.finetune(name, [*extra, *options], seed) for seed in self.seeds]
            shown.append((name, found))
            print(self.line(name, found), flush=True)
        if figure:
            keys = [("image→text R@1, %", "text_retrieval_recall@1"), ("text→image R@1, %", "image_retrieval_recall@1"),
                    ("same class as the start, %", "agreement")]
            dots(figure, shown, keys)

    def clothing(self, data, elsewhere, figure):
        """WiSE-FT: accuracy on what was trained, and on what was not, along the way from the start to the end."""
        curves = []
        for seed in self.seeds:
            place = self.place("clothing", [], seed)
            if not (place / "sweep.json").exists():
                subprocess.run(["rm", "-rf", str(place)], check=True)
                run(self.binary, "finetune", "--train-data", str(data / "train"), "--output", str(place), "--train", "all",
                    "--epochs", "3", "--batch-size", "64", "--lr", "1e-5", "--seed", str(seed), "--no-retention",
                    "--templates", "openai-7", "--quiet")
                both = []
                for test in (data / "test", elsewhere / "test"):
                    lines = run(self.binary, "merge", "builtin", str(place), "--alpha", "sweep", "--eval", str(test),
                                "--templates", "openai-7", "--quiet").splitlines()
                    both.append([(one["alpha"], one["acc1"]) for one in map(json.loads, lines)])
                (place / "sweep.json").write_text(json.dumps(both))
                subprocess.run(["rm", "-rf", str(place / "checkpoints")], check=True)
            curves.append(json.loads((place / "sweep.json").read_text()))
        print("\n### Clothing, and the way back\n")
        print("| part of the fine-tuned weights | clothing10 test | CIFAR-10 test |\n|---|---|---|")
        points = []
        for i, (alpha, _) in enumerate(curves[0][0]):
            cells = [[100 * curve[side][i][1] for curve in curves] for side in (0, 1)]
            points.append((alpha, *cells))
            print(f"| {alpha:.1f} | " + " | ".join(spread(values) for values in cells) + " |")
        if figure:
            curve(figure, points)

    @staticmethod
    def line(name, found):
        def cell(key):
            values = [100 * value(one, key) for one in found]
            return "" if any(math.isnan(v) for v in values) else spread(values)

        seconds = [one["seconds"] for one in found if "seconds" in one]
        took = f"{statistics.mean(seconds):.0f}" if seconds else ""
        keys = ["text_retrieval_recall@1", "image_retrieval_recall@1", "acc", "agreement"]
        return f"| {name} | " + " | ".join(cell(key) for key in keys) + f" | {took} |"


def value(found, key):
    one = found.get(key, math.nan)
    return one["value"] if isinstance(one, dict) else one


def spread(values):
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def dots(path, rows, keys):
    """One panel a number, one line a row: the mean and the range over seeds; the dashed line is the start."""
    width, left, step = 260, 190, 20
    height = 40 + step * len(rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width * len(keys)}" height="{height + 24}" '
           'font-family="sans-serif" font-size="12" fill="#888" stroke="none">']
    for i, (name, _) in enumerate(rows):
        out.append(f'<text x="{left - 10}" y="{44 + step * i}" text-anchor="end">{name}</text>')
    for panel, (title, key) in enumerate(keys):
        cells = [[100 * value(one, key) for one in found] for _, found in rows]
        known = [v for cell in cells for v in cell if not math.isnan(v)]
        low, high = min(known), max(known)
        margin = 0.08 * (high - low or 1)
        low, high = low - margin, high + margin
        at = lambda v: left + width * panel + 10 + (width - 40) * (v - low) / (high - low)
        out.append(f'<text x="{left + width * panel + width / 2 - 10}" y="18" text-anchor="middle">{title}</text>')
        for v in (low + margin, high - margin):
            out.append(f'<text x="{at(v):.1f}" y="{height + 14}" text-anchor="middle">{v:.0f}</text>')
        if not math.isnan(cells[0][0]):
            x = at(cells[0][0])
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="28" y2="{height}" stroke="#888" stroke-dasharray="3 3"/>')
        for i, cell in enumerate(cells):
            if any(math.isnan(v) for v in cell):
                continue
            y = 40 + step * i
            out.append(f'<line x1="{at(min(cell)):.1f}" x2="{at(max(cell)):.1f}" y1="{y}" y2="{y}" stroke="#4a90d9" stroke-width="3"/>')
            out.append(f'<circle cx="{at(statistics.mean(cell)):.1f}" cy="{y}" r="4" fill="#4a90d9"/>')
    pathlib.Path(path).write_text("\n".join([*out, "</svg>"]) + "\n")


def curve(path, points):
    """Accuracy on the trained task over accuracy elsewhere, a point for each part of the fine-tuned weights."""
    size, pad = 420, 60
    means = [(alpha, statistics.mean(here), statistics.mean(there)) for alpha, here, there in points]
    every = [v for _, here, _ in points for v in here], [v for _, _, there in points for v in there]
    (y0, y1), (x0, x1) = ((min(v) - 1, max(v) + 1) for v in every)
    x, y = (lambda v: pad + (size - pad - 20) * (v - x0) / (x1 - x0)), (lambda v: size - pad - (size - pad - 30) * (v - y0) / (y1 - y0))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" font-family="sans-serif" font-size="12" fill="#888">',
           f'<text x="{size / 2}" y="{size - 12}" text-anchor="middle">CIFAR-10 test accuracy, %</text>',
           f'<text x="16" y="{size / 2}" text-anchor="middle" transform="rotate(-90 16 {size / 2})">clothing10 test accuracy, %</text>']
    for v in (x0 + 1, x1 - 1):
        out.append(f'<text x="{x(v):.0f}" y="{size - 34}" text-anchor="middle">{v:.0f}</text>')
    for v in (y0 + 1, y1 - 1):
        out.append(f'<text x="{pad - 8}" y="{y(v):.0f}" text-anchor="end">{v:.0f}</text>')
    line = " ".join(f"{x(there):.1f},{y(here):.1f}" for _, here, there in means)
    out.append(f'<polyline points="{line}" fill="none" stroke="#4a90d9" stroke-width="2"/>')
    for (alpha, here, there), (_, heres, theres) in zip(means, points):
        out.append(f'<line x1="{x(min(theres)):.1f}" x2="{x(max(theres)):.1f}" y1="{y(here):.1f}" y2="{y(here):.1f}" stroke="#888"/>')
        out.append(f'<line x1="{x(there):.1f}" x2="{x(there):.1f}" y1="{y(min(heres)):.1f}" y2="{y(max(heres)):.1f}" stroke="#888"/>')
        out.append(f'<circle cx="{x(there):.1f}" cy="{y(here):.1f}" r="4" fill="#4a90d9"/>')
        out.append(f'<text x="{x(there) + 7:.1f}" y="{y(here) - 6:.1f}">{alpha:g}</text>')
    pathlib.Path(path).write_text("\n".join([*out, "</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flickr", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--binary", default="target/release/clip-cli", type=os.path.abspath)
    parser.add_argument("--work", default="finetuning-report", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", default="1e-5")
    parser.add_argument("--pick", nargs="*", help="of the rows, those with these names")
    parser.add_argument("--only", nargs="*", default=["objectives", "what", "pair", "clothing"])
    parser.add_argument("--clothing", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--elsewhere", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--text-model")
    parser.add_argument("--figures", type=pathlib.Path, help="where figures go")
    arguments = parser.parse_args()
    (arguments.work / "runs").mkdir(parents=True, exist_ok=True)
    report = Report(arguments)
    picked = lambda rows: [row for row in rows if not arguments.pick or row[0] in arguments.pick]
    figure = lambda name: arguments.figures and arguments.figures / f"finetuning-{name}.svg"
    if "objectives" in arguments.only:
        report.table("Objectives, image tower locked", picked(OBJECTIVES), ["--train", "text"], figure=figure("objectives"))
    if "what" in arguments.only:
        report.table("What is trained", picked(WHAT), [], figure=figure("what"))
    if "pair" in arguments.only and arguments.text_model:
        dual = arguments.work / "dual"
        if not dual.exists():
            run(report.binary, "models", "assemble", "--image", "builtin", "--text", arguments.text_model, "--dim", "256",
                "--output", str(dual))
        extra = ["--model", str(dual), "--train", "projections", "--lr", "1e-3", "--epochs", "8", "--no-retention"]
        report.table("EfficientNet-Lite0 and MiniLM, new projections", picked(PAIR), extra, str(dual))
    if "clothing" in arguments.only and arguments.clothing and arguments.elsewhere:
        report.clothing(arguments.clothing, arguments.elsewhere, figure("clothing"))


if __name__ == "__main__":
    main()
