#!/usr/bin/env python3
"""What `--precision int8` changes, at real size: cosines to the same model in f32, what is nearest, and zero-shot accuracy.

    python3 examples/int8_quality.py --binary target/release/clip-cli --images CLASSES --captions captions.tsv
        [--dual MODEL] [--random B32] [--builtin] [--per-class 40]

CLASSES has one folder a class (CIFAR-10's test images as files, say), captions.tsv the columns filepath and title, several
rows a photo. MODEL is what examples/dual.py makes (a DINOv2 ViT-S/14 and MiniLM), B32 a CLIP ViT-B/32 as transformers saves
it, with random weights; eight channels of its stream of tokens are made 50 times larger here. Needs numpy and safetensors.

Two columns say what is nearest. *Finds itself*: of all items' embeddings in f32, the nearest to an item's in int8 is its own,
as a search in an index needs that was made in f32. *Same nearest*, which is harder, since what is nearest may be nearly a tie:
of class means for images (in f32, over the other half of the images), and for other captions of photos which photo's first
caption is, both in one precision. Intervals are 95 % of 10,000 paired resamples.
"""

import argparse
import csv
import json
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np


def embed(binary, model, inputs, precision, more=()):
    """Unit embeddings of inputs on standard input, or of texts."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory, "out.npy")
        args = [binary, "embed", "-q", "--precision", precision, "-o", out, *more]
        args += ["--model", model] if model else []
        subprocess.run([str(arg) for arg in args], input="\n".join(inputs), text=True, check=True)
        return np.load(out).astype(np.float64)


def report(name, exact, int8, agreement):
    cosines = np.sum(exact * int8, 1)
    # Some captions stand twice.
    itself = np.mean((exact[(int8 @ exact.T).argmax(1)] == exact).all(1))
    print(f"| {name} | {len(exact)} | {np.median(cosines):.5f} | {np.quantile(cosines, 0.01):.5f} | "
          f"{cosines.min():.5f} | {100 * itself:.2f} % | {100 * agreement:.2f} % |", flush=True)


def images(name, binary, model, files, labels, more=()):
    exact, int8 = (embed(binary, model, files, precision, ["-", *more]) for precision in ("f32", "int8"))
    test = np.arange(len(files)) % 2 == 1
    means = np.stack([exact[~test & (labels == c)].mean(0) for c in range(labels.max() + 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = [(x[test] @ means.T).argmax(1) for x in (exact, int8)]
    report(name, exact, int8, np.mean(nearest[0] == nearest[1]))


def texts(name, binary, model, firsts, others):
    embedded = {}
    for precision in ("f32", "int8"):
        both = embed(binary, model, [], precision, ["--texts", write(firsts + others)])
        embedded[precision] = both, (both[len(firsts):] @ both[: len(firsts)].T).argmax(1)
    (exact, a), (int8, b) = embedded["f32"], embedded["int8"]
    report(name, exact, int8, np.mean(a == b))


def write(lines):
    path = pathlib.Path(tempfile.gettempdir(), "int8-quality-texts.txt")
    path.write_text("\n".join(lines) + "\n")
    return path


def with_outliers(model, target, factor=50.0, count=8):
    """A copy of a random CLIP whose image tower has `count` channels that are `factor` times larger between its blocks."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(model, target, ignore=shutil.ignore_patterns("model.safetensors", "golden*"))
    weights = load_file(pathlib.Path(model, "model.safetensors"))
    width = weights["vision_model.pre_layrnorm.weight"].shape[0]
    channels = np.random.default_rng(1).permutation(width)[:count]
    written = ("pre_layrnorm.weight", "pre_layrnorm.bias", "out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")
    for key, value in weights.items():
        if key.startswith("vision_model.") and key.endswith(written):
            value = value.copy()
            value[channels] *= factor
            weights[key] = value
    save_file(weights, pathlib.Path(target, "model.safetensors"), metadata={"format": "pt"})
    return target


def builtin(binary, files, labels, names):
    """Zero-shot accuracy of the built-in model, both precisions on the same images."""
    correct = []
    for precision in ("f32", "int8"):
        args = [binary, "zeroshot", "-", "-q", "--precision", precision, "--labels", ",".join(names), "-k", "1"]
        ran = subprocess.run(list(map(str, args)), input="\n".join(files), text=True, check=True, stdout=subprocess.PIPE)
        best = [next(iter(json.loads(line)["predictions"]))["label"] for line in ran.stdout.splitlines()]
        correct.append(np.array(best) == np.array(names)[labels])
    difference = correct[1].astype(float) - correct[0]
    draws = np.random.default_rng(0).multinomial(len(files), np.ones(len(files)) / len(files), 10_000)
    low, high = np.quantile(draws @ difference / len(files), [0.025, 0.975])
    print(f"\nbuilt-in model, {len(files)} images, {len(names)} classes: {100 * correct[0].mean():.2f} % in f32, "
          f"{100 * correct[1].mean():.2f} % in int8, {100 * difference.mean():+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="clip-cli")
    parser.add_argument("--images", type=pathlib.Path)
    parser.add_argument("--captions", type=pathlib.Path)
    parser.add_argument("--dual")
    parser.add_argument("--random")
    parser.add_argument("--builtin", action="store_true")
    parser.add_argument("--per-class", type=int, default=40)
    args = parser.parse_args()
    folders = sorted(path for path in args.images.iterdir() if path.is_dir()) if args.images else []
    some = [sorted(folder.iterdir())[: args.per_class] for folder in folders]
    files = [str(file) for files in some for file in files]
    labels = np.array([c for c, files in enumerate(some) for _ in files])
    print("| tower | items | median cosine | 1st percentile | least | finds itself | same nearest |\n|---|---|---|---|---|---|---|")
    if args.dual:
        if files:
            images("DINOv2 ViT-S/14", args.binary, args.dual, files, labels)
        if args.captions:
            photos = {}
            for row in csv.DictReader(args.captions.open(), delimiter="\t"):
                photos.setdefault(row["filepath"], []).append(row["title"])
            firsts = [titles[0] for titles in photos.values()]
            texts("MiniLM-L6", args.binary, args.dual, firsts, [t for titles in photos.values() for t in titles[1:3]])
    if args.random and files:
        images("random CLIP ViT-B/32", args.binary, args.random, files, labels)
        with tempfile.TemporaryDirectory() as directory:
            scaled = with_outliers(args.random, pathlib.Path(directory, "scaled"))
            images("the same, 8 channels × 50", args.binary, scaled, files, labels)
    if args.builtin and files:
        names = [folder.name for folder in folders]
        builtin(args.binary, files, labels, names)


if __name__ == "__main__":
    main()
