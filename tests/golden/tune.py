"""Few-shot tuning methods in PyTorch, f64, on the tiny checkpoints: data/tune.json and data/tune/*.safetensors.

Each case: parameters at the start, logits and gradients of the first batch, losses of 20 steps at a constant rate (the batch of
step i at step i), parameters and the first batch's logits afterwards. Images follow from a formula (trajectory.py), labels are
(n + step) mod 5. The methods are in tune_prompts.py, tune_deep.py and tune_features.py; how prompts
enter the towers is in tune_towers.py.
"""

import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

import tune_deep as deep
import tune_prompts as prompts
from tune_towers import BATCH, CLASSES, TEMPLATE, TEMPLATES, Towers, labels

HERE = Path(__file__).parent
STEPS = 20
PHRASE = prompts.PHRASE
CLIP, DINO, SIGLIP = "hf-clip-quickgelu", "custom-text-dinov2", "hf-siglip"


def sgd(lr):
    return {"name": "sgd", "lr": lr, "weight_decay": 5e-4, "momentum": 0.9}


def adamw(lr, weight_decay=1e-2, eps=1e-8):
    return {"name": "adamw", "lr": lr, "weight_decay": weight_decay, "betas": [0.9, 0.999], "eps": eps}


DEEP = {"n_ctx": 2, "init": PHRASE, "depth": 2}
# name: method, checkpoint, settings, optimizer
CASES = {
    "coop-random": (prompts.CoOp, CLIP, {"n_ctx": 4}, sgd(2e-3)),
    "coop-phrase": (prompts.CoOp, CLIP, {"init": PHRASE}, sgd(2e-3)),
    "coop-middle": (prompts.CoOp, CLIP, {"n_ctx": 5, "position": "middle"}, sgd(2e-3)),
    "coop-front": (prompts.CoOp, CLIP, {"n_ctx": 4, "position": "front"}, sgd(2e-3)),
    "coop-class": (prompts.CoOp, CLIP, {"n_ctx": 4, "class_specific": True}, sgd(0.01)),
    "coop-dinov2": (prompts.CoOp, DINO, {"init": PHRASE}, sgd(2e-3)),
    "coop-dinov2-random": (prompts.CoOp, DINO, {"n_ctx": 4, "position": "middle"}, sgd(2e-3)),
    "coop-siglip": (prompts.CoOp, SIGLIP, {"init": PHRASE}, sgd(2e-3)),
    "coop-siglip-random": (prompts.CoOp, SIGLIP, {"n_ctx": 4, "position": "front"}, sgd(2e-3)),
    "kgcoop": (prompts.KgCoOp, CLIP, {"init": PHRASE, "template": TEMPLATES[1], "weight": 8.0}, sgd(2e-3)),
    "prograd": (prompts.ProGrad, CLIP, {"n_ctx": 4, "lambda": 1.0}, sgd(2e-3)),
    "prograd-zeros": (prompts.ProGrad, CLIP, {"init": PHRASE, "zeros": 3, "lambda": 1.0}, sgd(2e-3)),
    "cocoop": (prompts.CoCoOp, CLIP, {"init": PHRASE}, sgd(1e-2)),
    "vpt-shallow": (deep.Vpt, CLIP, {"n_ctx": 4, "depth": 1}, sgd(2.5e-3)),
    "vpt-deep": (deep.Vpt, CLIP, {"n_ctx": 4, "depth": 2}, sgd(2.5e-3)),
    "vpt-dinov2": (deep.Vpt, DINO, {"n_ctx": 3, "depth": 2}, sgd(2.5e-3)),
    "maple": (deep.Maple, CLIP, DEEP, sgd(3.5e-3)),
    "maple-dinov2": (deep.Maple, DINO, DEEP, sgd(3.5e-3)),
    "ivlp": (deep.Ivlp, CLIP, {**DEEP, "n_ctx": 4, "n_image": 3}, sgd(2.5e-3)),
    "ivlp-dinov2": (deep.Ivlp, DINO, {**DEEP, "n_image": 2}, sgd(2.5e-3)),
}


def optimizer(spec, params):
    spec = dict(spec)
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[spec.pop("name")]
    return kind(params, **spec)


def named(kind, tensors):
    return {f"{kind}/{k}": v.detach().clone().contiguous() for k, v in tensors.items()}


def run(name, towers):
    method, checkpoint, settings, spec = CASES[name]
    torch.manual_seed(0)
    m = method(towers, settings, prompts.Draw(zlib.crc32(name.encode())))
    about = {
        "name": name, "method": m.name, "checkpoint": checkpoint, "settings": settings,
        "classes": CLASSES, "template": TEMPLATE, "scale": towers.scale, "bias": towers.bias, "starts_as": m.starts_as,
    }
    if hasattr(m, "context"):
        about["tokens"] = m.context.described()
    with torch.no_grad():
        logits = m.logits(0)
    tensors = named("param", m.params) | {"logits": logits} | m.extra
    if m.starts_as == "zeroshot":
        zeroshot = towers.logits(prompts.Method.images(m, 0), towers.classes())
        assert torch.allclose(logits, zeroshot, rtol=0, atol=1e-12), name
    if not spec:
        return about, tensors
    about |= {"batch": BATCH, "steps": STEPS, "optimizer": spec}
    first, losses, states = train(m, spec)
    about |= {"loss": losses[0], "losses": losses}
    tensors |= named("grad", first) | named("after", m.params)
    if hasattr(m, "average"):
        tensors |= named("average", m.average(states))
    if hasattr(m, "dots"):
        about["dots"] = list(m.dots)  # g·h of each step; negative: projected
        assert any(d < 0 for d in m.dots), m.dots
    with torch.no_grad():
        tensors["logits_after"] = m.logits(0)
        after = {k: p.clone() for k, p in m.params.items()}
        for key, p in m.params.items():
            p.copy_(tensors[f"param/{key}"] * (1 + 1e-12))
    train(m, spec)
    drift = max(float((p - after[k]).abs().max().detach()) for k, p in m.params.items())
    assert drift < 1e-8, f"{name}: 1e-12 at the start becomes {drift} after the steps"
    return about, tensors


def train(m, spec):
    """The gradients of the first step, the losses, and the parameters after each step."""
    optim, losses, states, first = optimizer(spec, list(m.params.values())), [], [], None
    for step in range(STEPS):
        loss, gradients = m.gradients(step)
        first = first or gradients
        for key, p in m.params.items():
            p.grad = gradients[key].clone()
        optim.step()
        losses.append(float(loss.detach()))
        states.append({k: p.detach().clone() for k, p in m.params.items()})
    return first, losses, states


def write(data):
    torch.set_num_threads(1)
    folder = data / "tune"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    towers, cases, files = {}, [], {}
    for name, (method, checkpoint, *_) in CASES.items():
        if checkpoint not in towers:
            towers[checkpoint] = Towers(data / checkpoint)
        about, tensors = run(name, towers[checkpoint])
        about["file"] = f"{name}.safetensors"
        cases.append(about)
        plain = {f"{name}/{k}": v.detach().clone().contiguous() for k, v in tensors.items()}
        save_file(plain, folder / about["file"])
        (folder / about["file"]).chmod(0o644)
        report(about, tensors)
    lines = ",\n".join(json.dumps(c) for c in cases)
    (data / "tune.json").write_text(f"[\n{lines}\n]\n")


def report(about, tensors):
    """How far 20 steps went: losses, and the largest change of a parameter beside the largest of its values."""
    moves = {k[6:]: float((tensors[f"after/{k[6:]}"] - v).abs().max() / (v.abs().max() + 1e-9)) for k, v in tensors.items()
             if k.startswith("param/") and f"after/{k[6:]}" in tensors}
    moved = {k: round(v, 4) for k, v in moves.items() if len(moves) < 8 or v in (min(moves.values()), max(moves.values()))}
    losses = about.get("losses", [])
    print(about["name"], [round(losses[i], 4) for i in (0, 1, 5, 10, 19)] if losses else "", moved, [f"{d:.1e}" for d in about.get("dots", [])])


if __name__ == "__main__":
    write(HERE / "data")
