"""The operations of convolutional towers in f64, beside those of `ops.py`: `data/conv-ops.safetensors`, `.json`."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ops import ACTIVATIONS, Cases


def conv(x, w, b, stride, before, after, groups=1, act=lambda x: x):
    return act(F.conv2d(F.pad(x, (before, after, before, after)), w, b, stride=stride, groups=groups))


def write(folder: Path):
    cases = Cases()
    cases.add("act/sigmoid", torch.sigmoid, {"act": "sigmoid"}, x=torch.linspace(-8, 8, 67, dtype=torch.float64))
    for kernel, stride, before, after, act in ((3, 1, 1, 1, "relu"), (3, 2, 0, 1, "silu"), (2, 2, 0, 0, "none")):
        cases.add(
            f"conv/k{kernel}_s{stride}_{act}",
            lambda x, w, b: conv(x, w, b, stride, before, after, act=ACTIVATIONS[act]),
            {"stride": stride, "pad_top_bottom": [before, after], "act": act},
            x=cases.draw(2, 3, 7, 6), w=cases.draw(4, 3, kernel, kernel), b=cases.draw(4),
        )
    for channels, times, kernel, stride, act in (
        (3, 1, 3, 1, "gelu_erf"), (3, 2, 3, 1, "none"), (5, 2, 7, 2, "none"), (17, 3, 5, 2, "silu"),
    ):
        pad = kernel // 2
        cases.add(
            f"depthwise/c{channels}x{times}_k{kernel}_s{stride}",
            lambda x, w, b: conv(x, w, b, stride, pad, pad, groups=channels, act=ACTIVATIONS[act]),
            {"stride": stride, "pad_top_bottom": [pad, pad], "act": act},
            x=cases.draw(2, channels, 9, 12), w=cases.draw(channels * times, 1, kernel, kernel),
            b=cases.draw(channels * times),
        )
    cases.add("mean_pixels/5x7", lambda x: x.mean((2, 3)), x=cases.draw(2, 3, 5, 7))
    cases.add("gate_channels/5x7", lambda x, g: x * g[:, :, None, None], x=cases.draw(2, 3, 5, 7), g=cases.draw(2, 3))
    save_file(cases.tensors, folder / "conv-ops.safetensors")
    (folder / "conv-ops.safetensors").chmod(0o644)
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in cases.settings.items())
    (folder / "conv-ops.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    write(Path(__file__).parent / "data")
