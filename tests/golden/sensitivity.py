"""How far the unit embeddings move when one detail is wrong: a golden file that cannot tell is worth nothing."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {
    "erf": nn.GELU(),
    "tanh": nn.GELU(approximate="tanh"),
    "quick": type("Quick", (nn.Module,), {"forward": lambda self, x: x * torch.sigmoid(1.702 * x)})(),
}


def _swap_activation(model, new):
    """Replace every GELU of the model; return what undoes it."""
    undo = []
    for parent in model.modules():
        for name, child in parent.named_children():
            if "GELU" in type(child).__name__:
                undo.append((parent, name, child))
    for parent, name, _ in undo:
        setattr(parent, name, new)
    return lambda: [setattr(parent, name, child) for parent, name, child in undo]


def _swap_eps(model, eps):
    undo = [(m, m.eps) for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))]
    for module, _ in undo:
        module.eps = eps
    return lambda: [setattr(module, "eps", old) for module, old in undo]


@torch.no_grad()
def report(name, reference, golden, pixels):
    """Print the largest change of image and text embeddings for each wrong activation and epsilon."""
    data = load_file(golden)
    tokens = {k: data[k] for k in ("input_ids", "attention_mask") if k in data}

    def moved():
        image = F.normalize(reference.image(pixels), dim=-1) - data["image_embeds"]
        text = F.normalize(reference.text(tokens), dim=-1) - data["text_embeds"]
        return f"{image.abs().max():.0e}/{text.abs().max():.0e}"

    cells = [f"same {moved()}"]
    for label, activation in ACTIVATIONS.items():
        undo = _swap_activation(reference.model, activation)
        cells.append(f"{label} {moved()}")
        undo()
    for eps in (1e-5, 1e-6):
        undo = _swap_eps(reference.model, eps)
        cells.append(f"eps {eps} {moved()}")
        undo()
    image, text = data["image_embeds"], data["text_embeds"]
    spread = [(x @ x.T - 2 * torch.eye(len(x))).max().item() for x in (image, text)]
    probs = data["probs"]
    print(f"{name:24}", "  ".join(cells), f"| closest pair {spread[0]:.4f}/{spread[1]:.4f} probs {probs.min():.3f}..{probs.max():.3f}")
