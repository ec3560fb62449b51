"""Write golden.safetensors and golden.json beside any local checkpoint: `python parity.py DIR [IMAGE ...] [--size N]`.

Images default to the synthetic ones of this folder (made if they are missing).
"""

import argparse
from pathlib import Path

import images
import oracle

HERE = Path(__file__).parent
TEXTS = ["a photo of a cat", "a photo of two dogs", "Tom &amp; Jerry, a drawing!", ""]


def write(path: Path, files=(), sizes=()):
    folder = HERE / "images"
    if not files and not folder.exists():
        images.write(folder)
    # An absolute file name replaces the folder when the two are joined.
    files = [str(Path(f).resolve()) for f in files] or images.NAMES[:4]
    oracle.golden(path.resolve(), folder, files, TEXTS, sizes=sizes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", nargs="*")
    parser.add_argument("--size", type=int, action="append", default=[], help="also embed at this image size")
    arguments = parser.parse_args()
    write(arguments.checkpoint, arguments.images, arguments.size)
