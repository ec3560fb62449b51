"""Single operations in f64: inputs, output, upstream gradient `dy` and the gradient of everything that has one."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

ACTIVATIONS = {
    "none": lambda x: x,
    "gelu_erf": lambda x: F.gelu(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x),
    "silu": lambda x: F.silu(x),
}


class Cases:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(11)
        self.tensors, self.settings = {}, {}

    def draw(self, *shape, scale=1.0):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale

    def add(self, case, function, settings=None, **inputs):
        inputs = {k: v.requires_grad_() for k, v in inputs.items()}
        y = function(**inputs)
        dy = self.draw(*y.shape)
        gradients = torch.autograd.grad(y, list(inputs.values()), dy)
        stored = {**inputs, "y": y, "dy": dy, **{f"d{k}": g for k, g in zip(inputs, gradients)}}
        self.tensors |= {f"{case}/{k}": v.detach().contiguous().clone() for k, v in stored.items()}
        self.settings[case] = settings or {}


def attention(qkv, heads, mask=None):
    """Multi-head self-attention from packed q, k, v of shape (batch, tokens, 3 * width)."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) * (width // heads) ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)


def same_padding(size, kernel, stride):
    """TensorFlow's SAME: the odd pixel goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def depthwise(x, w, stride, padding):
    (top, bottom), (left, right) = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), w, stride=stride, groups=x.shape[1])


def write(folder: Path):
    cases = Cases()
    for name, act in ACTIVATIONS.items():
        for rows, fan_in, fan_out in ((5, 7, 9), (4, 16, 8)):
            cases.add(
                f"linear/{name}_{rows}x{fan_in}x{fan_out}", lambda x, w, b: act(F.linear(x, w, b)), {"act": name},
                x=cases.draw(rows, fan_in), w=cases.draw(fan_out, fan_in), b=cases.draw(fan_out),
            )
        cases.add(f"act/{name}", act, {"act": name}, x=torch.linspace(-8, 8, 67, dtype=torch.float64))
    for eps in (1e-5, 1e-6):
        for rows, width, scale in ((3, 7, 1.0), (5, 16, 0.003)):
            cases.add(
                f"layer_norm/eps{eps:g}_{rows}x{width}", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, eps),
                {"eps": eps}, x=cases.draw(rows, width, scale=scale) + scale, w=cases.draw(width), b=cases.draw(width),
            )
    for batch, tokens, heads, width in ((2, 5, 3, 12), (3, 9, 2, 16), (1, 1, 1, 4)):
        size = f"{batch}x{tokens}x{heads}x{width}"
        lengths = torch.arange(batch) * 2 % tokens + 1
        padding = (torch.arange(tokens)[None] < lengths[:, None])[:, None, None]
        masks = {"none": None, "causal": torch.ones(tokens, tokens).tril().bool(), "padding": padding}
        for name, mask in masks.items():
            cases.add(
                f"attention/{name}_{size}", lambda qkv: attention(qkv, heads, mask),
                {"heads": heads, "mask": name, "lengths": lengths.tolist() if name == "padding" else None},
                qkv=cases.draw(batch, tokens, 3 * width),
            )
    cases.add("softmax/4x9", lambda x: x.softmax(-1), x=cases.draw(4, 9, scale=4))
    cases.add("softmax/large", lambda x: x.softmax(-1), x=cases.draw(3, 5, scale=300))
    for patch, height, width, out in ((4, 8, 12, 6), (3, 10, 11, 5)):
        cases.add(
            f"patch_embed/p{patch}_{height}x{width}", lambda x, w, b: F.conv2d(x, w, b, stride=patch), {"patch": patch},
            x=cases.draw(2, 3, height, width), w=cases.draw(out, 3, patch, patch), b=cases.draw(out),
        )
    cases.add("l2_normalise/4x7", lambda x: F.normalize(x, dim=-1), x=cases.draw(4, 7))
    for kernel in (3, 5):
        for stride in (1, 2):
            for height, width in ((7, 9), (8, 6)):
                padding = same_padding(height, kernel, stride), same_padding(width, kernel, stride)
                cases.add(
                    f"depthwise/k{kernel}_s{stride}_{height}x{width}",
                    lambda x, w: depthwise(x, w, stride, padding),
                    {"kernel": kernel, "stride": stride, "pad_top_bottom": padding[0], "pad_left_right": padding[1]},
                    x=cases.draw(2, 3, height, width), w=cases.draw(3, 1, kernel, kernel),
                )
    save_file(cases.tensors, folder / "ops.safetensors")
    (folder / "ops.safetensors").chmod(0o644)
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in cases.settings.items())
    (folder / "ops.json").write_text(f"{{\n{lines}\n}}\n")
