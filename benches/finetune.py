#!/usr/bin/env python3
"""One training step of a full-size CLIP, here and in PyTorch eager, interleaved: seconds a step and peak memory.

    python benches/finetune.py CHECKPOINT TABLE --binary target/release/clip-cli [--rounds 2] [--lora]

CHECKPOINT is a transformers CLIP directory, TABLE a captions table with 96 or more images. Both train all parameters (or
LoRA of rank 8 on q, k, v and out of both towers) with AdamW, batch 32, f32, the same number of threads, captions padded
to the longest of the batch. The first step of each process is left out.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time

from beside import interleaved


def torch_side(arguments):
    import torch
    import transformers
    from PIL import Image

    torch.set_num_threads(arguments.threads)
    model = transformers.CLIPModel.from_pretrained(arguments.checkpoint).train()
    if arguments.lora:
        import peft

        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
        model = peft.get_peft_model(model, config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.checkpoint)
    processor = transformers.CLIPImageProcessor.from_pretrained(arguments.checkpoint)
    rows = [line.split("\t") for line in open(arguments.table).read().splitlines()[1:]]
    root = os.path.dirname(arguments.table)
    seen, pairs = set(), []
    for image, caption in rows:
        if image not in seen:
            seen.add(image)
            pairs.append((os.path.join(root, image), caption))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    times = []
    for step in range(arguments.steps):
        batch = pairs[step * 32 : step * 32 + 32]
        began = time.perf_counter()
        pixels = processor([Image.open(p).convert("RGB") for p, _ in batch], return_tensors="pt")
        tokens = tokenizer([c for _, c in batch], return_tensors="pt", padding=True, truncation=True)
        loss = model(**tokens, **pixels, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": times[1:], "peak": peak}))


def ours(arguments):
    with tempfile.TemporaryDirectory() as work:
        run = os.path.join(work, "run")
        table = os.path.join(os.path.dirname(arguments.table), ".bench.tsv")
        rows, seen = ["filepath\ttitle"], set()
        for line in open(arguments.table).read().splitlines()[1:]:
            image = line.split("\t")[0]
            if image not in seen and len(seen) < 32 * arguments.steps + 2:
                seen.add(image)
                rows.append(line)
        held = rows[:1] + rows[-2:]
        open(table, "w").write("\n".join(rows[:-2]) + "\n")
        open(table + ".val.tsv", "w").write("\n".join(held) + "\n")
        command = [arguments.binary, "finetune", "--model", arguments.checkpoint, "--train-data", table, "--val-data",
                   table + ".val.tsv", "--output", run, "--batch-size", "32", "--micro-batch", "32", "--epochs", "1",
                   "--lr", "1e-6", "--no-retention", "--threads", str(arguments.threads), "--quiet"]
        command += ["--train", "lora", "--lora-rank", "8"] if arguments.lora else ["--train", "all"]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        os.remove(table), os.remove(table + ".val.tsv")
        if status:
            raise SystemExit(f"failed: {command}")
        lines = [json.loads(line) for line in open(os.path.join(run, "metrics.jsonl"))]
        rates = [line["pairs_per_second"] for line in lines if "pairs_per_second" in line]
        shutil.rmtree(run)
        return {"seconds": [32 / rate for rate in rates][1:], "peak": usage.ru_maxrss * 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=os.path.abspath)
    parser.add_argument("table", type=os.path.abspath)
    parser.add_argument("--lora", action="store_true")
    interleaved(parser, torch_side, ours, steps=3, rounds=2)


if __name__ == "__main__":
    main()
