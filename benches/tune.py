#!/usr/bin/env python3
"""One step of CoOp with 100 classes and 16 learnt vectors, here and in PyTorch eager, interleaved.

    python benches/tune.py CHECKPOINT IMAGES --binary target/release/clip-cli [--rounds 3] [--padded]

CHECKPOINT is a transformers CLIP directory, IMAGES a folder with some images (any below it are used). Both embed the
images once; a step is the text tower of 100 prompts forth and back, logits of 32 images, cross-entropy, SGD; f32, the
same number of threads. Prompts are as long as they are (about 24 tokens); with --padded PyTorch pads them to 77, as
CoOp's code does. The first step of each process is left out. Peak memory is that of the whole process.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile

from beside import interleaved

WORDS = ("apple bread chair dog eagle fish goat house island jacket kite lamp mouse night ocean piano queen river ship "
         "train umbrella violin water yacht zebra").split()
CLASSES = [f"{a} {b}" for a in WORDS[:10] for b in WORDS[10:20]]


def torch_side(arguments):
    import time
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    text = transformers.CLIPTextModelWithProjection.from_pretrained(arguments.checkpoint).requires_grad_(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.checkpoint)
    prompts = [" ".join(["x"] * 16) + f" {name}." for name in CLASSES]
    tokens = tokenizer(prompts, return_tensors="pt", padding="max_length" if arguments.padded else True)
    embedded = text.text_model.embeddings.token_embedding(tokens.input_ids)
    ctx = torch.nn.Parameter(0.02 * torch.randn(16, embedded.shape[2]))
    ends = tokens.input_ids.argmax(1)
    images = torch.nn.functional.normalize(torch.randn(32, text.config.projection_dim), dim=-1)
    labels = torch.arange(32) % len(CLASSES)
    optimizer = torch.optim.SGD([ctx], lr=2e-3, momentum=0.9, weight_decay=5e-4)
    inner, length = text.text_model, embedded.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    times = []
    for _ in range(arguments.steps):
        began = time.perf_counter()
        x = torch.cat([embedded[:, :1], ctx.expand(len(CLASSES), -1, -1), embedded[:, 17:]], 1)
        x = x + inner.embeddings.position_embedding.weight[:length]
        for layer in inner.encoder.layers:
            x = layer(x, attention_mask=mask)
            x = x[0] if isinstance(x, tuple) else x
        x = inner.final_layer_norm(x[torch.arange(len(CLASSES)), ends])
        rows = torch.nn.functional.normalize(text.text_projection(x), dim=-1)
        loss = torch.nn.functional.cross_entropy(100 * images @ rows.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    print(json.dumps({"seconds": times[1:], "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def ours(arguments):
    found = [path for path in sorted(pathlib.Path(arguments.images).rglob("*")) if path.suffix.lower() in (".jpg", ".png")]
    with tempfile.TemporaryDirectory() as work:
        for i, name in enumerate(CLASSES):
            (pathlib.Path(work) / "data" / name).mkdir(parents=True)
            shutil.copy(found[i % len(found)], pathlib.Path(work) / "data" / name)
        command = [arguments.binary, "tune", "--method", "coop", "--model", arguments.checkpoint, "--data",
                   f"{work}/data", "--shots", "1", "--epochs", str(-(-arguments.steps // 3)), "--output", f"{work}/run",
                   "--threads", str(arguments.threads), "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            raise SystemExit(f"failed: {command}")
        lines = [json.loads(line) for line in open(f"{work}/run/metrics.jsonl")]
        return {"seconds": [line["seconds"] for line in lines][1:], "peak": usage.ru_maxrss * 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=os.path.abspath)
    parser.add_argument("images", type=os.path.abspath)
    parser.add_argument("--padded", action="store_true")
    interleaved(parser, torch_side, ours, steps=6, rounds=3)


if __name__ == "__main__":
    main()
