"""Write tests/golden/images and tests/golden/data from scratch: `python make.py [checkpoint ...]`."""

import logging
import shutil
import sys
import warnings
from pathlib import Path

import torch
import transformers

import checkpoints
import convert
import conv_ops
import hidden
import images
import negatives
import objectives
import ops
import oracle
import sensitivity
import text
import trajectory
import tune

HERE = Path(__file__).parent
TEXTS = [
    "a photo of a cat",
    "A drawing of two dogs in the snow!",
    "people walking in the city at night, near an old house by the river",
    "Blue_ball & green chair: 2 for $5?",
    "",
]


def make_checkpoint(name):
    writer, sizes, *own = checkpoints.CHECKPOINTS[name]
    files, texts = (own + [None, None])[:2]
    path = HERE / "data" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    writer(path)
    reference = oracle.golden(
        path, HERE / "images", files or images.NAMES, texts or TEXTS, sizes=sizes, notes=[writer.__doc__ or ""]
    )
    pixels = reference.pixels([HERE / "images" / f for f in files or images.NAMES])
    sensitivity.report(name, reference, path / "golden.safetensors", pixels)


def main(names):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    checkpoints.register_tiny_trunks()
    checkpoints.register_tiny_conv_trunks()
    images.write(HERE / "images")
    for name in names or checkpoints.CHECKPOINTS:
        make_checkpoint(name)
        if name in hidden.CHECKPOINTS:
            hidden.write(HERE / "data" / name)
    if not names:
        text.write(HERE / "data" / "text", HERE.parents[1] / "models" / "vocab")
        ops.write(HERE / "data")
        convert.write()
        conv_ops.write(HERE / "data")
        negatives.write(HERE / "data")
        objectives.write(HERE / "data")
        trajectory.write(HERE / "data")
        tune.write(HERE / "data")


if __name__ == "__main__":
    main(sys.argv[1:])
