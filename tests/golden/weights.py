"""Draw every tensor of a model so that each formula shows in the embedding.

The residual stream is kept small (about `RESIDUAL`), so a wrong LayerNorm epsilon is visible; the first block's
hidden activations sit near -2, where the GELU variants differ most, the others are spread around 0.
"""

import re

import torch
from torch import nn

RESIDUAL = 0.01
WRITES_RESIDUAL = re.compile(
    r"(out_proj|c_proj|fc2|attn\.proj|attn_pool\.proj|output\.dense|patch_embedding|patch_embed\.proj|conv1)\.(weight|bias)$"
)
WRITING_NORM = re.compile(r"(pre_layrnorm|ln_pre|norm_pre|LayerNorm)\.(weight|bias)$")  # its output is the residual stream
EMBEDDING = re.compile(r"(token_embedding|position_embedding|class_embedding|positional_embedding|pos_embed|cls_token|_embeddings|cls_emb)")
HIDDEN = re.compile(r"(\d+)\.(mlp\.)?(fc1|c_fc|intermediate\.dense)\.(weight|bias)$")
HIDDEN_OUT = re.compile(r"(fc2|c_proj|\d\.output\.dense)\.weight$")
POST_NORM = ("BertModel", "RobertaModel", "XLMRobertaModel", "AltRobertaModel", "ChineseCLIPTextModel", "AlignTextModel")
NARROW_BLOCK = 0  # the block whose hidden activations sit near -2


def draw(model: nn.Module, seed: int):
    """Redraw parameters and buffers in place, in the order of the state dict."""
    generator = torch.Generator().manual_seed(seed)
    norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    batch_norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    bert = {f"{name}." for name, module in model.named_modules() if type(module).__name__ in POST_NORM}
    convolutional = next(
        (f"{name}." for name in ("visual", "vision_model") if any(b.startswith(f"{name}.") for b in batch_norms)), None
    ) if not any("trunk.bn1" in b for b in batch_norms) else None
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            owner = name[: name.rfind(".") + 1]
            if convolutional and name.startswith(convolutional):
                value = convolution(name, noise, owner in norms, owner in batch_norms)
            elif "trunk.stages" in name or "trunk.stem" in name:
                value = convnext(name, noise, owner in norms)
            elif owner in norms:
                value = norm(name, noise)
            elif owner in batch_norms:
                value = batch_norm(name, noise)
            else:
                value = other(name, noise, inside_bert=any(name.startswith(prefix) for prefix in bert))
            tensor.copy_(value)


@torch.no_grad()
def calibrate(tower: nn.Module, pixels):
    """Give batch norms the statistics of these images, rounded, as training would: else all images look alike."""
    norms = [module for module in tower.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    tower.train()(pixels)
    tower.eval()
    for module in norms:
        module.running_mean.copy_(module.running_mean.half())
        module.running_var.copy_((module.running_var + 1e-4).half())


def norm(name, noise):
    value = 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    return value * RESIDUAL if WRITING_NORM.search(name) else value


def batch_norm(name, noise):
    if name.endswith("running_var"):
        return 0.03 * (1 + 0.3 * noise).abs() + 0.01
    if name.endswith("running_mean"):
        return 0.05 * noise
    return 1.8 + 0.3 * noise if name.endswith("weight") else 0.3 * noise


def convolution(name, noise, in_norm, in_batch_norm):
    """A tower with batch norms: numbers of order 1 all the way, so that every branch and activation counts."""
    if in_batch_norm and name.endswith("weight"):
        return 1 + 0.2 * noise
    if in_batch_norm and name.endswith("running_var"):
        return batch_norm(name, noise)
    if in_norm:
        return 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    if name.endswith("gamma"):
        return 0.5 + 0.1 * noise
    if noise.ndim < 2:  # small, or all images would look alike
        return (0.01 if in_batch_norm else 0.05) * noise
    if "positional_embedding" in name:
        return 0.5 * noise
    before_norm = noise.ndim == 4 and not re.search(r"fc\d|pos_enc|squeeze_excite", name)
    if noise.shape[1:2] == (3,):  # the first convolution sees edges rather than brightness
        noise = noise - noise.mean((1, 2, 3), keepdim=True)
    return noise * (0.25 if before_norm else 1.2) * noise[0].numel() ** -0.5


def convnext(name, noise, in_norm):
    """What a layer norm reads is as small as the epsilon can show; biases are small, or all images would look alike."""
    if in_norm:
        return 1 + 0.2 * noise if name.endswith("weight") else 0.02 * noise
    if name.endswith("gamma"):
        return 0.2 + 0.05 * noise
    small = re.search(r"stem\.0|conv_dw", name)
    if noise.ndim < 2:
        return (0.0005 if small else 0.05) * noise
    return noise * (0.01 if small else 1.2) * noise[0].numel() ** -0.5


def other(name, noise, inside_bert):
    if name.endswith("logit_scale"):
        return 2.3 + 0.2 * noise
    if name == "text_projection.bias":  # ALIGN's, behind a layer norm whose output is small
        return 0.2 * RESIDUAL * noise
    if name.endswith("temperature"):
        return 0.1 + 0.01 * noise
    if name.endswith("logit_bias"):
        return -1.5 + 0.2 * noise
    if EMBEDDING.search(name):
        return RESIDUAL * noise
    if name.endswith(("probe", "latent", "attn_pool.query")):
        return noise
    if re.search(r"ls\d\.gamma$", name):
        return 0.8 + 0.2 * noise

    hidden = HIDDEN.search(name)
    narrow = hidden and int(hidden[1]) == NARROW_BLOCK
    if noise.ndim < 2:  # biases
        if hidden:
            return (-2.1 if narrow else 0) + 0.2 * noise
        return (0.5 * RESIDUAL if WRITES_RESIDUAL.search(name) else 0.2) * noise

    if "trunk.conv" in name or "trunk.blocks" in name and noise.ndim == 4:  # convolutional trunk, before a BatchNorm
        return noise * 0.2 * noise[0].numel() ** -0.5
    is_matrix_on_the_right = name in ("visual.proj", "text_projection", "text.text_projection")
    fan_in = noise.shape[0] if is_matrix_on_the_right else noise[0].numel()
    gain = 1.2
    if narrow:
        gain = 0.35
    elif HIDDEN_OUT.search(name):
        gain = 20 if f".{NARROW_BLOCK}." in name else 2
    if name == "text.proj.0.weight" or inside_bert and not WRITES_RESIDUAL.search(name):
        gain /= RESIDUAL  # post-norm: what a layer reads is as small as the residual stream
    if WRITES_RESIDUAL.search(name):
        gain *= RESIDUAL
    return noise * gain * fan_in**-0.5
