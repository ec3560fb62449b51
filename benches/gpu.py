#!/usr/bin/env python3
"""Forwards on a GPU: clip-cli beside transformers, by turns, pixels and token ids in memory to embeddings in memory.

    python benches/gpu.py CHECKPOINT [--device cuda] [--batches 1,32,256] [--precisions f32 bf16 f16] [--rounds 3]

CHECKPOINT is a CLIP or SigLIP as transformers saves it. `just bench-gpu` builds what is measured. Prints a Markdown table
of milliseconds an item, medians of all calls. Needs torch with the device, transformers, and benches/requirements.txt.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import measure, prepare
from peers.rows import Process


def sides(a, tower, precision):
    cases = {n: (f"{tower}, {precision}, batch {n}", int(n)) for n in a.batches.split(",")}
    siglip = "siglip" in json.loads((a.checkpoint / "config.json").read_text())["model_type"]
    # Only a SigLIP text ends with another token than CLIP's.
    common = ["--seconds", a.seconds, "--precision", precision, "--end", 1 if siglip else 49407]
    ours = [a.forward, tower, a.batches, "--model", a.checkpoint, "--quiet", "--device", a.device, *common]
    theirs = [sys.executable, "-m", "peers.forward", "transformers", tower, a.checkpoint, "-", a.batches, *common]
    theirs += ["--device", {"metal": "mps"}.get(a.device, a.device)]
    return [Process("clip-cli", ours, cases), Process("transformers", theirs, cases)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=lambda p: Path(p).resolve())
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, metal (PyTorch's mps), cpu")
    parser.add_argument("--batches", default="1,32,256")
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "f16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--forward", type=os.path.abspath, help="benches/forward, built [default: the newest]")
    a = parser.parse_args()
    a.forward = a.forward or prepare.forward_binary()
    found = {}
    for tower in ("image", "text"):
        for precision in a.precisions:
            measure.by_turns(sides(a, tower, precision), a.rounds, found)
    print(f"| {a.device} (ms an item) | clip-cli | transformers | ratio |\n|---|---|---|---|")
    for case, of in found.items():
        ours, theirs = (1e3 * statistics.median(of[side]["seconds"]) for side in ("clip-cli", "transformers"))
        print(f"| {case} | {ours:.3g} | {theirs:.3g} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
