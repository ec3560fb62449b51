"""Training beside PyTorch, by the benches that compare both sides themselves."""

import sys

from . import prepare

CASES = {
    "full, B/32, batch 32": ("finetune.py", []),
    "LoRA of rank 8, B/32, batch 32": ("finetune.py", ["--lora"]),
    "CoOp, 100 classes, B/32": ("tune.py", []),
}


def measure(c, results):
    source = prepare.checkpoint(c.checkpoints, "hf-clip-b32")
    photos = prepare.photos(c.work, 128)
    for case, (script, extra) in CASES.items():
        given = [source, photos / "captions.tsv" if script == "finetune.py" else photos]
        rest = ["--binary", c.binary, "--threads", c.threads, *(["--rounds", 1] if c.quick else []), *extra]
        lines = prepare.run([sys.executable, script, *given, *rest]).splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        found = {row[0]: row for row in cells if row[0] in ("torch", "clip-cli")}
        results[case] = {
            side: {"seconds": [float(row[1])], "peak": float(row[3].split()[0]) * 1e9} for side, row in found.items()
        }
        print(f". {case}", file=sys.stderr)
