"""Few-shot tuning by prompts inside the towers' blocks, restated from the authors' code: one class a method."""

import math

import torch
from torch.nn import functional as F

from tune_prompts import CoOp, Method
from tune_towers import CLASSES, labels, unit


class Vpt(Method):
    """Image prompts alone, in the first block or in each of the first `depth`; the texts are the zero-shot ones.

    muzairkhattak/multimodal-prompt-learning: trainers/vpt.py, clip/model.py. (The original VPT puts them behind the class token.)
    """

    name = "vpt"

    def start(self, draw):
        n, width = self.settings["n_ctx"], self.towers.image_width
        self.params = {f"image.{i}": draw.normal(n, width) for i in range(self.settings["depth"])}
        self.frozen = self.towers.classes()

    def texts(self):
        return self.frozen

    def prompts(self):
        return [v for k, v in self.params.items() if k.startswith("image.")]

    def images(self, step):
        return unit(self.towers.image(self.towers.pixels(step), self.prompts()))


class Ivlp(CoOp):
    """Prompts of both towers, independent of each other, deep in both.

    muzairkhattak/multimodal-prompt-learning: trainers/independentVL.py, clip/model.py.
    """

    name = "ivlp"

    def start(self, draw):
        super().start(draw)
        n, depth = self.context.n, self.settings["depth"]
        self.params |= {f"text.{i}": draw.normal(n, self.towers.text_width) for i in range(1, depth)}
        self.params |= {f"image.{i}": draw.normal(self.settings["n_image"], self.towers.image_width) for i in range(depth)}
        self.starts_as = None

    def deep(self):
        return [v for k, v in self.params.items() if k.startswith("text.")]

    def prompts(self):
        return [v for k, v in self.params.items() if k.startswith("image.")]

    def raw(self, step):
        """Features of both towers, not normalised."""
        texts = self.towers.text_with(self.context.ids, self.context.places, self.params["ctx"], self.deep())
        return self.towers.image(self.towers.pixels(step), self.prompts()), texts

    def logits(self, step):
        images, texts = self.raw(step)
        return self.towers.logits(unit(images), unit(texts))


class Maple(Ivlp):
    """Image prompts are linear images of the text prompts, a layer each; all deep layers' start from the same draw.

    muzairkhattak/multimodal-prompt-learning: trainers/maple.py, clip/model.py.
    """

    name = "maple"

    def start(self, draw):
        CoOp.start(self, draw)
        n, depth, width = self.context.n, self.settings["depth"], self.towers.text_width
        self.params |= {f"text.{i}": draw.normal(n, width) for i in range(1, depth)}
        self.params |= draw.linear("couple.0", width, self.towers.image_width)
        same = draw.linear("x", width, self.towers.image_width)
        for i in range(1, depth):
            self.params |= {k.replace("x", f"couple.{i}"): v for k, v in same.items()}
        self.starts_as = None

    def prompts(self):
        return [self.linear(f"couple.{i}", p) for i, p in enumerate([self.params["ctx"], *self.deep()])]


class PromptSrc(Ivlp):
    """IVLP + L1 of texts and images to the frozen ones, means over all elements, + KL(frozen ‖ prompted) over all elements.

    The frozen text is the unit mean of embeddings that were not normalised. Also: a Gaussian average over epochs.
    muzairkhattak/PromptSRC: trainers/promptsrc.py.
    """

    name = "promptsrc"

    def start(self, draw):
        super().start(draw)
        texts = [self.towers.text([t.format(c) for c in CLASSES]) for t in self.settings["templates"]]
        self.frozen = unit(torch.stack(texts).mean(0))

    def loss(self, step):
        images, texts = (unit(x) for x in self.raw(step))
        plain = unit(self.towers.image(self.towers.pixels(step)))
        logits, target = self.towers.logits(images, texts), self.towers.logits(plain, self.frozen)
        kl = F.kl_div(logits.log_softmax(-1), target.log_softmax(-1), reduction="sum", log_target=True) / logits.numel()
        s = self.settings
        l1 = s["text_weight"] * F.l1_loss(texts, self.frozen) + s["image_weight"] * F.l1_loss(images, plain)
        return F.cross_entropy(logits, labels(step)) + l1 + s["logit_weight"] * kl

    def average(self, states):
        """Of the states at the ends of the epochs 1, 2, …"""
        mean, std = self.settings["average"]
        weights = [math.exp(-0.5 * ((e + 1 - mean) / std) ** 2) for e in range(len(states))]
        return {k: sum(w * s[k] for w, s in zip(weights, states)) / sum(weights) for k in self.params}


class Restore(Maple):
    """MaPLe + lambda Σ over deep layers of (text shift − image shift)², and an adapter A on each tower's feature.

    The shift of a layer's prompts P is ‖PᵀP‖_F over what it was at the start, for layers 1, 2, … but not the first. f becomes
    r A(f) + (1 − r) f with A(f) = f + fc2(quick_gelu(fc1(LN f))), before normalisation; each tower has its own A and r. Once, after
    epoch ⌊epochs / 3⌋ (from 0), r grows by 0.02 (texts) and 0.005 (images) times the mean of ‖PᵀP‖_F over these layers:
    `raised` in tune.json, for the parameters after the last step. Yaphabates/RESTORE_: trainers/maple_fsa.py.
    """

    name = "restore"

    def start(self, draw):
        super().start(draw)
        dim, hidden = self.towers.dim, self.settings["hidden"]
        for side in ("text", "image"):
            norm = {"weight": torch.ones(dim).double(), "bias": torch.zeros(dim).double()}
            self.params |= {f"adapter.{side}.norm.{k}": v for k, v in norm.items()}
            self.params |= draw.linear(f"adapter.{side}.fc1", dim, hidden) | draw.linear(f"adapter.{side}.fc2", hidden, dim)
        self.first = self.norms().detach()

    def norms(self):
        """(deep layers, 2): of texts and images."""
        pairs = zip(self.deep(), self.prompts()[1:])
        return torch.stack([torch.stack([(p.T @ p).norm() for p in pair]) for pair in pairs])

    def adapt(self, side, x):
        name, ratio = f"adapter.{side}", self.settings[f"{side}_ratio"]
        h = F.layer_norm(x, x.shape[-1:], self.params[f"{name}.norm.weight"], self.params[f"{name}.norm.bias"])
        h = self.linear(f"{name}.fc1", h)
        h = self.linear(f"{name}.fc2", h * torch.sigmoid(1.702 * h))
        return ratio * (x + h) + (1 - ratio) * x

    def raw(self, step):
        images, texts = super().raw(step)
        return self.adapt("image", images), self.adapt("text", texts)

    def loss(self, step):
        shifts = self.norms() / self.first
        return super().loss(step) + self.settings["lambda"] * ((shifts[:, 0] - shifts[:, 1]) ** 2).sum()

    def summary(self):
        (text, image), s = self.norms().mean(0).tolist(), self.settings
        return {"raised": {"text": s["text_ratio"] + 0.02 * text, "image": s["image_ratio"] + 0.005 * image}}
