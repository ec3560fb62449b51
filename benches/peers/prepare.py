"""What the rows need, made once under the work folder: checkpoints, exports, photos, captions."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

BENCHES = Path(__file__).resolve().parent.parent
GOLDEN = BENCHES.parent / "tests/golden"
WORDS = "dog boy street red car two people snow table bird river green house chair ball night flower city sea plate".split()


def run(command, cwd=BENCHES):
    out = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{out.stdout[-2000:]}{out.stderr[-4000:]}")
    return out.stdout


def checkpoint(folder, name):
    """A checkpoint of real shapes with random weights, as tests/golden/real.py makes it."""
    path = folder / name
    if not list(path.glob("*.safetensors")):
        path.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        code = "import sys, pathlib, real; real.MODELS[sys.argv[1]](pathlib.Path(sys.argv[2]))"
        run([sys.executable, "-c", code, name, path], cwd=GOLDEN)
    return path


def exports(folder, source, tower):
    """The tower as ONNX and OpenVINO files."""
    path, done = folder / source.name, folder / source.name / f"{tower}.done"
    if not done.exists():
        print(f"exporting {source.name}, {tower}", file=sys.stderr)
        run([sys.executable, "-m", "peers.exports", source, path, tower])
        done.touch()
    return path


def photos(folder, count):
    """Photo-like pictures of 640 x 480, JPEG quality 90 4:2:0, about 77 KB each, and a table of captions."""
    path = folder / f"photos-{count}"
    table = path / "captions.tsv"
    if table.exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    lines = ["filepath\ttitle"]
    for i in range(count):
        generator = np.random.default_rng(i)
        picture = np.zeros((480, 640, 3), np.float32)
        # Octaves of smooth noise, as photos have: half the amplitude at twice the frequency, and some grain.
        for cells, strength in [(4, 70), (8, 40), (16, 25), (40, 15), (80, 11), (160, 8)]:
            small = generator.normal(0, 1, (cells * 3 // 4, cells, 3)) * [1, 0.8, 0.8] + generator.normal(0, 1, (cells * 3 // 4, cells, 1))
            bytes_ = np.clip(small * 40 + 128, 0, 255).astype(np.uint8)
            grown = Image.fromarray(bytes_).resize((640, 480), Image.Resampling.BICUBIC)
            picture += (np.asarray(grown, np.float32) - 128) / 40 * strength
        picture += generator.normal(0, 4, (480, 640, 1)) + 128
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.4))
        image.save(path / f"{i:04}.jpg", quality=90, subsampling=2)
        words = generator.choice(WORDS, 3 + i % 8)
        lines.append(f"{i:04}.jpg\ta photo of a {' '.join(words)}")
    table.write_text("\n".join(lines) + "\n")
    return path


def forward_binary():
    """The newest build of benches/forward."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", BENCHES.parent / "target"))
    found = [p for p in target.glob("release/deps/forward-*") if p.suffix == "" and os.access(p, os.X_OK)]
    if not found:
        raise SystemExit("no build of benches/forward: cargo bench --bench forward --no-run")
    return max(found, key=lambda p: p.stat().st_mtime)
