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
import tune_features as features
import tune_prompts as prompts
from tune_towers import BATCH, CLASSES, TEMPLATE, TEMPLATES, Towers, labels

HERE = Path(__file__).parent
STEPS, LARGEST = 20, 190_000
PHRASE = prompts.PHRASE
CLIP, DINO, SIGLIP = "hf-clip-quickgelu", "custom-text-dinov2", "hf-siglip"


def sgd(lr):
    return {"name": "sgd", "lr": lr, "weight_decay": 5e-4, "momentum": 0.9}


def adamw(lr, weight_decay=1e-2, eps=1e-8):
    return {"name": "adamw", "lr": lr, "weight_decay": weight_decay, "betas": [0.9, 0.999], "eps": eps}


DEEP = {"n_ctx": 2, "init": PHRASE, "depth": 2}
SUPPORT = [30, 31, 32, 33]  # steps whose batches are the labelled examples
TIP = {"support": SUPPORT, "alpha": 1.17, "beta": 1.0}
CLASS = {"template": TEMPLATE}
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
    "promptsrc": (deep.PromptSrc, CLIP, {
        **DEEP, "n_ctx": 4, "n_image": 4, "templates": TEMPLATES, "text_weight": 25.0, "image_weight": 10.0, "logit_weight": 1.0,
        "average": [15, 1],
    }, sgd(2.5e-3)),
    "restore": (deep.Restore, CLIP, {**DEEP, "lambda": 0.1, "text_ratio": 0.1, "image_ratio": 0.05, "hidden": 160}, sgd(3.5e-3)),
    "pre-lstm": (prompts.Pre, CLIP, {"init": PHRASE, "encoder": "lstm"}, sgd(1e-2)),
    "pre-mlp": (prompts.Pre, CLIP, {"init": PHRASE, "encoder": "mlp", "hidden": 64}, sgd(5e-3)),
    "zeroshot": (features.ZeroShot, CLIP, {"templates": [TEMPLATE]}, None),
    "zeroshot-dinov2": (features.ZeroShot, DINO, {"templates": [TEMPLATE]}, None),
    "zeroshot-siglip": (features.ZeroShot, SIGLIP, {"templates": [TEMPLATE]}, None),
    "ensemble": (features.Ensemble, CLIP, {"templates": TEMPLATES}, None),
    "tip": (features.Tip, CLIP, {**TIP, "grid": [[0.1, 0.1], [1.17, 1.0], [3.0, 5.5], [5.0, 12.0]]}, None),
    "tip-f": (features.TipF, CLIP, TIP, adamw(1e-3, eps=1e-4)),
    "clip-adapter": (features.ClipAdapter, CLIP, {"ratio": 0.2}, sgd(5e-2)),
    "clip-adapter-off": (features.ClipAdapter, CLIP, {"ratio": 0.0}, None),
    "linear-probe": (features.LinearProbe, CLIP, {"support": SUPPORT, "C": 1.0}, None),
    "linear-probe-loose": (features.LinearProbe, CLIP, {"support": SUPPORT, "C": 316.0}, None),
    "lora": (features.Lora, CLIP, {**CLASS, "r": 2, "alpha": 1.0}, adamw(2e-3)),
    "layernorm": (features.LayerNorm, CLIP, CLASS, adamw(1e-3)),
    "bitfit": (features.BitFit, CLIP, CLASS, adamw(1e-3)),
    "tfup": (features.Tfup, CLIP, {"unlabelled": list(range(30, 40)), "templates": TEMPLATES, "alpha": 0.3, "beta": 1.0}, None),
    "tfup-few": (features.Tfup, CLIP, {
        "unlabelled": list(range(30, 34)), "templates": [TEMPLATE], "alpha": 0.3, "beta": 1.0, "shots": 2,
    }, None),
    "close": (features.Close, CLIP, {"templates": TEMPLATES, "sigma": 0.08, "steps": STEPS}, adamw(1e-2)),
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
    about |= getattr(m, "about", {})
    if m.starts_as:
        templates = [TEMPLATE] if m.starts_as == "zeroshot" else TEMPLATES
        plain = towers.logits(prompts.Method.images(m, 0), towers.classes(templates))
        assert torch.allclose(logits, plain, rtol=0, atol=1e-12), name
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
        about |= m.summary() if hasattr(m, "summary") else {}
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


def write(data, show=False):
    torch.set_num_threads(1)
    folder = data / "tune"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    towers, cases = {}, []
    for name, (_, checkpoint, *_) in CASES.items():
        if checkpoint not in towers:
            towers[checkpoint] = Towers(data / checkpoint)
        about, tensors = run(name, towers[checkpoint])
        about["files"] = save(folder, name, tensors)
        cases.append(about)
        if show:
            report(about, tensors)
    lines = ",\n".join(json.dumps(c) for c in cases)
    (data / "tune.json").write_text(f"[\n{lines}\n]\n")


def save(folder, name, tensors):
    """One file, or as many as it takes to keep each under LARGEST."""
    parts, size = [{}], 0
    for key, value in tensors.items():
        value = value.detach().clone().contiguous()
        if size + value.nbytes > LARGEST:
            parts, size = [*parts, {}], 0
        parts[-1][f"{name}/{key}"] = value
        size += value.nbytes
    files = [f"{name}{f'-{i + 1}' if i else ''}.safetensors" for i in range(len(parts))]
    for file, part in zip(files, parts):
        save_file(part, folder / file)
        (folder / file).chmod(0o644)
    return files


def report(about, tensors):
    """How far the steps went: losses, and the largest change of each parameter beside its largest value at the start."""
    print(about["name"], [round(loss, 4) for loss in about.get("losses", [])[::5]])
    for key, start in tensors.items():
        after = tensors.get(key.replace("param/", "after/", 1))
        if key.startswith("param/") and after is not None:
            print(f"    {key[6:]}: {(after - start).abs().max():.1e} of {start.abs().max():.1e}")


if __name__ == "__main__":
    write(HERE / "data", show=True)
