"""The rows of the table: which processes run, what they are held to."""

import itertools
import sys
from dataclasses import dataclass, field

from . import prepare

TORCH, RUNTIMES = ["transformers", "open_clip"], ["onnxruntime", "openvino", "openvino-streams"]
INT8 = ["onnxruntime-int8", "openvino-int8", "openvino-int8-streams"]
# Our checkpoint, and open_clip's name of the same architecture.
MODELS = {
    "B/32": ("hf-clip-b32", "ViT-B-32-quickgelu"),
    "SigLIP-B/16": ("hf-siglip-b16", "ViT-B-16-SigLIP"),
    "B/16": ("hf-clip-b16", "ViT-B-16-quickgelu"),
    "L/14": ("hf-clip-l14", "ViT-L-14-quickgelu"),
}
LABELS = "dog,cat,car,horse,house,tree,boat,bird,plane,flower"


@dataclass
class Process:
    """One side of one or more cases. `cases` maps what the process calls a case to the table's name for it and its items.

    With `wall`, the process's whole time is the one case's.
    """

    side: str
    command: list
    cases: dict
    wall: bool = False
    environment: dict = field(default_factory=dict)


@dataclass
class Row:
    """`processes(context)` gives lists of processes that run by turns; `goals` are (peers, the most that the ratio may be);
    `limits` are the most seconds for cases without peers. What hardly varies runs `once`."""

    title: str
    processes: object
    goals: list = field(default_factory=list)
    limits: dict = field(default_factory=dict)
    of: str = "time"
    once: bool = False


def models(c):
    return c.models or (list(MODELS)[:2] if c.quick else list(MODELS))


def forward(c, side, model, tower, batches, cases, threads=None, extra=()):
    """A process that times forwards: of ours, or of a peer."""
    name, other = MODELS[model]
    source = prepare.checkpoint(c.checkpoints, name)
    # Only a SigLIP text ends with another token than CLIP's.
    end = 1 if "siglip" in name else 49407
    rest = ["--threads", threads or c.threads, "--seconds", c.seconds, "--end", end, *extra]
    if side.startswith("clip-cli"):
        command = [c.forward, tower, batches, "--model", source, "--quiet", *rest]
        command += ["--precision", "int8"] if side == "clip-cli-int8" else []
        # As the program sets it for itself.
        return Process("clip-cli", command, cases, environment={"MIMALLOC_PURGE_DELAY": "-1"})
    given = other if side == "open_clip" else source
    exports = "-" if side in TORCH else prepare.exports(c.work / "exports", source, tower)
    return Process(side, [sys.executable, "-m", "peers.forward", side, tower, given, exports, batches, *rest], cases)


def images(c, sides, batches):
    for model in models(c):
        cases = {str(n): (f"{model}, batch {n}", n) for n in batches}
        text = ",".join(map(str, batches))
        yield [forward(c, side, model, "image", text, cases) for side in sides]


def float_images(c):
    return images(c, ["clip-cli", *TORCH, *RUNTIMES], [1, 32] if c.quick else [1, 8, 32])


def int8_images(c):
    return images(c, ["clip-cli-int8", *INT8], [1, 32] if c.quick else [1, 8, 32])


def texts(c):
    """Captions of eight tokens, as they are and, at peers alone, padded to the 77 that their processors give."""
    batches = "1,64"
    cases = {n: (f"B/32, batch {n}", int(n)) for n in batches.split(",")}
    same = [forward(c, side, "B/32", "text", batches, cases) for side in ["clip-cli", *TORCH, *RUNTIMES[:2]]]
    # open_clip's text tower adds all 77 positions: it takes no shorter texts.
    padded = [forward(c, side, "B/32", "text", batches, cases, extra=["--length", 77]) for side in [*TORCH, *RUNTIMES[:2]]]
    for process in padded:
        process.side += ", padded"
    yield [process for process in same if process.side != "open_clip"] + padded


def ours_embed(c, photos, out, source):
    return [c.binary, "embed", *photos, "--model", source, "--output", out, "--quiet", "--threads", c.threads]


def files(c, count, sides, case):
    source = prepare.checkpoint(c.checkpoints, MODELS["B/32"][0])
    exports = prepare.exports(c.work / "exports", source, "image")
    photos, out = prepare.photos(c.work, max(count, 64)), c.work / "out.npy"
    ours = [photos] if count > 1 else [photos / "0000.jpg"]
    cases = {"wall": (case, count)}
    processes = [Process("clip-cli", ours_embed(c, ours, out, source), cases, wall=True)]
    for side in sides:
        given = prepare.checkpoint(c.checkpoints, "open_clip-b32") if side == "open_clip" else source
        command = [sys.executable, "-m", "peers.embed", side, given, exports, photos, out, c.threads, count]
        processes.append(Process(side, command, cases, wall=True))
    yield processes


def jpegs(c):
    count = 64 if c.quick else 512
    return files(c, count, [*TORCH, *RUNTIMES[:2]], f"B/32, {count} JPEGs 640x480 to npy")


def one(c):
    return files(c, 1, [*TORCH, *RUNTIMES[:2]], "B/32, one JPEG to npy")


def memory(c):
    for model, batch in itertools.product(models(c)[: 1 if c.quick else None], [1, 32]):
        cases = {str(batch): (f"{model}, batch {batch}", 1)}
        yield [forward(c, side, model, "image", batch, cases) for side in ["clip-cli", *TORCH, *RUNTIMES[:2]]]


def builtin(c):
    photo = prepare.photos(c.work, 64) / "0000.jpg"
    zeroshot = [c.binary, "zeroshot", photo, "--labels", LABELS, "--templates", "openai-7", "--quiet"]
    plain = {"one JPEG, embed": [c.binary, "embed", photo, "--quiet"], "zeroshot, 10 labels x 7 templates, cold": [*zeroshot, "--no-cache"],
             "the same, cached": zeroshot}
    environment = {"XDG_CACHE_HOME": str(c.work / "cache")}
    for case, command in plain.items():
        command = [*command, "--threads", c.threads]
        yield [Process("clip-cli", command, {"wall": (case, 1)}, wall=True, environment=environment)]


def threads(c):
    """One thread is its own peer: the ratio is of times."""
    def sides(n, name):
        cases = {"32": ("B/32, batch 32, two threads beside one", 32)}
        for side in ["clip-cli", "onnxruntime", "openvino"]:
            process = forward(c, side, "B/32", "image", "32", cases, threads=n)
            process.side = name if side == "clip-cli" else f"{side}, {n} thread{'s' * (n > 1)}"
            yield process

    yield [*sides(2, "clip-cli"), *sides(1, "clip-cli, 1 thread")]


INT8_GOALS = [(["onnxruntime-int8"], 0.90), (["openvino-int8", "openvino-int8-streams"], 0.90)]
ROWS = {
    "forward": Row("image forward, f32", float_images, [([*TORCH, *RUNTIMES], 0.95)]),
    "int8": Row("image forward, int8", int8_images, INT8_GOALS),
    "text": Row("text forward, 8 tokens", texts, [
        (["transformers", *RUNTIMES[:2]], 0.95), ([f"{side}, padded" for side in [*TORCH, *RUNTIMES[:2]]], 0.12),
    ]),
    "jpegs": Row("files", jpegs, [(TORCH, 0.65), (RUNTIMES[:2], 0.82)]),
    "one": Row("start to first embedding", one, [(TORCH, 0.10), (["onnxruntime"], 0.5)]),
    "memory": Row("peak memory, image tower", memory, [(TORCH, 0.5), (["onnxruntime"], 1.0)], of="peak", once=True),
    "builtin": Row("built-in model, whole command", builtin, limits={
        "one JPEG, embed": 0.06, "zeroshot, 10 labels x 7 templates, cold": 0.3, "the same, cached": 0.08,
    }),
    "threads": Row("threads", threads, [(["clip-cli, 1 thread"], 1 / 1.85)]),
}
