#!/usr/bin/env python3
"""Measure a model directory written by `make.py --float` (or `--full`) with open_clip itself.

    evaluate.py MODEL --classify NAME=IMAGES,NAMES ... --retrieve NAME=IMAGES,CAPTIONS ...

IMAGES of a classification set holds one folder per class; NAMES has one line per class, either the
folder's name or `folder<TAB>class name`. CAPTIONS is a table `filepath<TAB>title` with a heading.
Class prompts are the seven templates of OpenAI's short ImageNet list, embeddings averaged.
Intervals are Wilson's, 95 %.
"""
import argparse
import json
import math
import os
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import HFTokenizer
from PIL import Image

TEMPLATES = ["itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
             "a {} in a video game.", "art of the {}.", "a photo of the small {}."]


def interval(hits, total, z=1.96):
    p, d = hits / total, 1 + z * z / total
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return [round(100 * v, 2) for v in (p, (p + z * z / (2 * total) - half) / d, (p + z * z / (2 * total) + half) / d)]


class Model:
    def __init__(self, folder):
        here = os.getcwd()
        os.chdir(folder)  # hf_model_name is a directory beside the weights
        self.net, _, self.preprocess = open_clip.create_model_and_transforms("local-dir:.")
        config = json.loads(Path("open_clip_config.json").read_text())["model_cfg"]
        self.tokenizer = HFTokenizer(config["text_cfg"]["hf_tokenizer_name"], config["text_cfg"]["context_length"])
        os.chdir(here)
        self.net.eval()

    @torch.inference_mode()
    def images(self, paths, batch=32):
        out = []
        for i in range(0, len(paths), batch):
            pixels = torch.stack([self.preprocess(Image.open(p).convert("RGB")) for p in paths[i:i + batch]])
            out.append(self.net.encode_image(pixels, normalize=True))
        return torch.cat(out)

    @torch.inference_mode()
    def texts(self, texts, batch=128):
        out = []
        for i in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[i:i + batch])
            tokens = tokens[:, :int((tokens != 0).sum(1).max())]  # padding is masked: the shorter, the faster
            out.append(self.net.encode_text(tokens, normalize=True))
        return torch.cat(out)


def classify(model, images, names, templates, limit):
    rows = [line.split("\t") for line in Path(names).read_text().splitlines() if line.strip()]
    paths, labels = [], []
    for label, row in enumerate(rows):
        found = sorted(p for p in Path(images, row[0]).rglob("*") if p.is_file())[:limit]
        paths += found
        labels += [label] * len(found)
    prompts = sum(model.texts([t.format(row[-1]) for row in rows]) for t in templates)
    scores = model.images(paths) @ F.normalize(prompts, dim=1).T
    labels = torch.tensor(labels)
    hits = (scores.argmax(1) == labels).sum().item()
    loss = F.cross_entropy(scores * model.net.logit_scale.exp(), labels).item()
    confidence = (scores * model.net.logit_scale.exp()).softmax(1).amax(1).mean().item()
    return {"classes": len(rows), "images": len(paths), "acc1": interval(hits, len(paths)),
            "log_loss": round(loss, 4), "mean_confidence": round(100 * confidence, 2)}


def retrieve(model, images, captions):
    pairs = [line.split("\t")[:2] for line in Path(captions).read_text().splitlines()[1:] if line.strip()]
    files = sorted({p for p, _ in pairs})
    index = {p: i for i, p in enumerate(files)}
    root = next(r for r in (Path(images), Path(captions).parent) if (r / files[0]).is_file())
    scores = model.images([root / p for p in files]) @ model.texts([t for _, t in pairs]).T
    owner = torch.tensor([index[p] for p, _ in pairs])
    out = {"images": len(files), "captions": len(pairs)}
    for k in (1, 5):
        to_text = (owner[scores.topk(k, dim=1).indices] == torch.arange(len(files))[:, None]).any(1).sum().item()
        to_image = (scores.T.topk(k, dim=1).indices == owner[:, None]).any(1).sum().item()
        out[f"image_to_text_r{k}"] = interval(to_text, len(files))
        out[f"text_to_image_r{k}"] = interval(to_image, len(pairs))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--classify", action="append", default=[], metavar="NAME=IMAGES,NAMES")
    parser.add_argument("--retrieve", action="append", default=[], metavar="NAME=IMAGES,CAPTIONS")
    parser.add_argument("--template", action="append", help="instead of the seven, e.g. 'a photo of a {}.'")
    parser.add_argument("--limit", type=int, help="at most so many images of each class, in order of file name")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Model(args.model)
    for kind, task in (("classify", classify), ("retrieve", retrieve)):
        for entry in getattr(args, kind):
            name, places = entry.split("=", 1)
            extra = (args.template or TEMPLATES, args.limit) if kind == "classify" else ()
            print(json.dumps({"set": name, **task(model, *places.split(",", 1), *extra)}), flush=True)


if __name__ == "__main__":
    main()
