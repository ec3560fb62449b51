"""Synthetic photographs in the file kinds people really have: gradients, shapes and noise, free of any licence."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# name, width, height, mode, save options
IMAGES = [
    ("landscape.jpg", 161, 107, "RGB", dict(quality=88)),
    ("portrait.jpg", 80, 200, "RGB", dict(quality=92, progressive=True)),  # 2.5 : 1
    ("odd-margin.png", 115, 77, "RGB", {}),  # crop margin = 3 mod 4 at 32, 40, 48, 56 and 64 px
    ("gray.jpg", 90, 71, "L", dict(quality=85)),
    ("cmyk.jpg", 97, 69, "CMYK", dict(quality=90)),
    ("palette.png", 83, 61, "P", {}),
    ("rgba.png", 64, 91, "RGBA", {}),
    ("tiny.png", 21, 17, "RGB", {}),  # smaller than any target size
]
NAMES = [image[0] for image in IMAGES]


def scene(width, height, rng):
    """An RGB picture with slow gradients, hard edges and fine noise."""
    y, x = np.mgrid[0:height, 0:width]
    phase, frequency = rng.uniform(0, 6, 3), rng.uniform(0.02, 0.09, (3, 2))
    waves = [np.sin(frequency[c, 0] * x + frequency[c, 1] * y + phase[c]) for c in range(3)]
    picture = Image.fromarray((np.stack(waves, -1) * 90 + 128).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for shape in [draw.ellipse, draw.rectangle, draw.ellipse, draw.rectangle, draw.line]:
        left, right = sorted(rng.integers(0, width, 2).tolist())
        top, bottom = sorted(rng.integers(0, height, 2).tolist())
        shape([left, top, right, bottom], fill=tuple(rng.integers(0, 256, 3).tolist()))
    noisy = np.asarray(picture) + rng.normal(0, 9, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for name, width, height, mode, options in IMAGES:
        picture = scene(width, height, rng)
        if mode == "RGBA":
            alpha = np.linspace(0, 255, width)[None, :].repeat(height, 0).astype(np.uint8)
            picture.putalpha(Image.fromarray(alpha))
        elif mode == "P":
            picture = picture.quantize(48)
        else:
            picture = picture.convert(mode)
        picture.save(folder / name, **options)
