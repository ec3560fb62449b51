"""hidden.safetensors beside a checkpoint: what each block of both towers leaves, for two images and two texts.

`image.N` and `text.N` (items, tokens, width) for block N, 0 being what enters the first (where the reference gives it);
`image.norm`, `text.norm`: the last one after the tower's last layer norm; `image.projected`, `text.projected`: that in
the space of the embeddings, where the reference maps it so. Inputs are the first two of golden.safetensors.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import oracle

CHECKPOINTS = [
    "hf-clip-gelu", "hf-siglip", "open_clip-vit", "open_clip-siglip", "custom-text-dinov2", "eva02-clip", "pe-core",
]


def transformers_layout(model, pixels, ids, mask):
    """output_hidden_states of both towers."""
    vision = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    text = model.text_model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    out = {"image": list(vision.hidden_states), "text": list(text.hidden_states)}
    norms = {
        "image": model.vision_model.post_layernorm(out["image"][-1]),
        "text": model.text_model.final_layer_norm(out["text"][-1]),
    }
    projected = {}
    if hasattr(model, "visual_projection"):
        projected = {"image": model.visual_projection(norms["image"]), "text": model.text_projection(norms["text"])}
    else:
        projected = {"text": model.text_model.head(norms["text"])}
    return out, norms, projected


def open_clip_layout(model, pixels, ids):
    """forward_intermediates of the image tower, and of the text tower where that is open_clip's own."""
    options = dict(output_fmt="NLC", output_extra_tokens=True, intermediates_only=True)

    def image(**more):
        found = model.visual.forward_intermediates(pixels, **options, **more)
        patches, lead = found["image_intermediates"], found.get("image_intermediates_prefix")
        return [torch.cat([a, b], 1) for a, b in zip(lead, patches)] if lead else list(patches)

    out, norms = {"image": [None, *image()]}, {"image": image(normalize_intermediates=True)[-1]}
    if hasattr(model, "text") and hasattr(model.text.transformer, "config"):
        mask = (ids != model.text.config.pad_token_id).long()
        found = model.text.transformer(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        out["text"] = list(found.hidden_states)
    else:
        found = model.forward_intermediates(text=ids, intermediates_only=True)
        out["text"] = [None, *found["text_intermediates"]]
        found = model.forward_intermediates(text=ids, intermediates_only=True, normalize_intermediates=True)
        norms["text"] = found["text_intermediates"][-1]
    projected = {}
    if hasattr(model.visual, "proj"):
        projected["image"] = norms["image"] @ model.visual.proj
    return out, norms, projected


@torch.no_grad()
def write(path: Path):
    reference = oracle.load(path.resolve())
    data = load_file(path / "golden.safetensors")
    pixels, ids = data["pixels"][:2], data["input_ids"][:2]
    if reference.name == "open_clip":
        out, norms, projected = open_clip_layout(reference.model, pixels, ids)
    else:
        mask = data["attention_mask"][:2] if "attention_mask" in data else None
        out, norms, projected = transformers_layout(reference.model, pixels, ids, mask)
    tensors = {f"{t}.{n}": x for t, states in out.items() for n, x in enumerate(states) if x is not None}
    tensors |= {f"{t}.norm": x for t, x in norms.items()} | {f"{t}.projected": x for t, x in projected.items()}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path / "hidden.safetensors")
    (path / "hidden.safetensors").chmod(0o644)


if __name__ == "__main__":
    import checkpoints

    checkpoints.register_tiny_trunks()
    for name in CHECKPOINTS:
        write(Path(__file__).parent / "data" / name)
