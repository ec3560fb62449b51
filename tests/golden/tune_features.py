"""Few-shot tuning on features and on the towers' own weights, restated from the authors' code: one class a method."""

import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from tune_prompts import Method
from tune_towers import CLASSES, TEMPLATES, labels, unit

UNLABELLED_SHARE, FEWEST, MOST = 0.3, 9, 16


class ZeroShot(Method):
    """The unit mean of the unit embeddings of a class's prompts; nothing is learnt."""

    name = "zeroshot"

    def start(self, draw):
        self.params = {}
        self.frozen = self.towers.classes(self.settings["templates"])
        self.starts_as = "zeroshot" if len(self.settings["templates"]) == 1 else None

    def texts(self):
        return self.frozen


class Ensemble(ZeroShot):
    """The same with several templates."""

    name = "ensemble"


class Support(Method):
    """Methods that learn from the unit features of a few labelled batches, the support."""

    def support(self):
        steps = self.settings["support"]
        with torch.no_grad():
            features = torch.cat([Method.images(self, s) for s in steps])
        return features, torch.cat([labels(s) for s in steps])


class Tip(Support):
    """scale·f·W + alpha · exp(−beta (1 − f·K)) · onehot, with the support's unit features as keys K.

    The authors take 100 for the scale and the unit mean of ten augmented passes as keys; here the checkpoint's scale and one pass.
    gaopengcuhk/Tip-Adapter: main.py, utils.py.
    """

    name = "tip"

    def start(self, draw):
        keys, targets = self.support()
        self.frozen, self.values = self.towers.classes(), F.one_hot(targets, len(CLASSES)).double()
        self.keys, self.params = keys, {}
        grid = self.settings.get("grid", [])
        self.extra = {"keys": keys}
        with torch.no_grad():
            self.extra |= {f"logits/{i}": self.score(0, *pair) for i, pair in enumerate(grid)}

    def score(self, step, alpha, beta):
        images = self.images(step)
        near = (-beta * (1 - images @ self.params.get("keys", self.keys).T)).exp() @ self.values
        return self.towers.logits(images, self.frozen) + alpha * near

    def logits(self, step):
        return self.score(step, self.settings["alpha"], self.settings["beta"])


class TipF(Tip):
    """Tip-Adapter whose keys are learnt, and not normalised again."""

    name = "tip-f"

    def start(self, draw):
        super().start(draw)
        self.params, self.extra = {"keys": self.keys}, {}


class ClipAdapter(Method):
    """ratio · relu(fc2 relu(fc1 f)) + (1 − ratio) · f of the image feature that is not normalised yet; no biases.

    gaopengcuhk/CLIP-Adapter: clip_adapter.py.
    """

    name = "clip-adapter"

    def start(self, draw):
        dim, self.frozen = self.towers.dim, self.towers.classes()
        self.params = draw.linear("fc1", dim, dim // 4, bias=False) | draw.linear("fc2", dim // 4, dim, bias=False)
        self.starts_as = "zeroshot" if self.settings["ratio"] == 0 else None

    def texts(self):
        return self.frozen

    def images(self, step):
        f, ratio = self.towers.image(self.towers.pixels(step)), self.settings["ratio"]
        return unit(ratio * self.linear("fc2", self.linear("fc1", f).relu()).relu() + (1 - ratio) * f)


class LinearProbe(Support):
    """Multinomial logistic regression on unit features: C · Σ cross-entropy + ½‖weight‖², the bias free; from zero.

    As scikit-learn's LogisticRegression, which KaiyangZhou/CoOp: lpclip/linear_probe.py uses (there on features not normalised). The
    answer is polished by Newton's method until the gradient is rounding noise. The biases sum to nought.
    """

    name = "linear-probe"

    def start(self, draw):
        (x, y), c = self.support(), self.settings["C"]
        fit = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x.numpy(), y.numpy())
        classes, dim = len(CLASSES), x.shape[1]
        w = torch.cat([torch.from_numpy(fit.coef_), torch.from_numpy(fit.intercept_)[:, None]], 1).flatten()

        def objective(w):
            w = w.view(classes, dim + 1)
            logits = x @ w[:, :dim].T + w[:, dim]
            free = w[:, dim].sum() ** 2  # which the loss leaves free; nought at its least
            return c * F.cross_entropy(logits, y, reduction="sum") + 0.5 * (w[:, :dim] ** 2).sum() + free

        for _ in range(5):
            gradient = torch.func.grad(objective)(w)
            w = w - torch.linalg.solve(torch.func.hessian(objective)(w), gradient)
        gradient = torch.func.grad(objective)(w)
        assert gradient.abs().max() < 1e-9, gradient.abs().max()
        w = w.view(classes, dim + 1)
        assert (w[:, :dim] - torch.from_numpy(fit.coef_)).abs().max() < 1e-5
        self.weight, self.bias = w[:, :dim].contiguous(), w[:, dim].contiguous()
        self.params, self.extra = {}, {"optimum/weight": self.weight, "optimum/bias": self.bias, "features": x}
        self.about = {"objective": float(objective(w.flatten()))}

    def logits(self, step):
        return self.images(step) @ self.weight.T + self.bias


class Weights(Method):
    """Methods that change weights of both towers; the texts are the template's."""

    starts_as = "zeroshot"

    def weights(self):
        return self.params

    def logits(self, step):
        self.towers.overrides = self.weights()
        try:
            return self.towers.logits(self.images(step), self.towers.classes((self.settings["template"],)))
        finally:
            self.towers.overrides = {}

    def named(self):
        return {n: p.detach() for n, p in self.towers.model.named_parameters()}


class Lora(Weights):
    """W + alpha/√r · B A on the queries, keys and values of every block of both towers; A uniform within ±1/√inputs, B zero.

    MaxZanella/CLIP-LoRA: lora.py, loralib/layers.py, loralib/utils.py.
    """

    name = "lora"

    def start(self, draw):
        self.params, r = {}, self.settings["r"]
        for name, w in self.named().items():
            if any(f"{k}_proj.weight" in name for k in "qkv"):
                self.params[f"{name}.lora_A"] = draw.uniform(r, w.shape[1], bound=w.shape[1] ** -0.5)
                self.params[f"{name}.lora_B"] = torch.zeros(w.shape[0], r).double()

    def weights(self):
        names = [k.removesuffix(".lora_A") for k in self.params if k.endswith(".lora_A")]
        scale, base = self.settings["alpha"] / self.settings["r"] ** 0.5, self.named()
        return {n: base[n] + scale * self.params[f"{n}.lora_B"] @ self.params[f"{n}.lora_A"] for n in names}


class LayerNorm(Weights):
    """Weights and biases of every layer norm of both towers."""

    name = "layernorm"

    def start(self, draw):
        norms = [n for n, m in self.towers.model.named_modules() if isinstance(m, torch.nn.LayerNorm)]
        self.params = {k: v for k, v in self.named().items() if k.rpartition(".")[0] in norms}


class BitFit(Weights):
    """Every bias of both towers, those of the layer norms among them.

    Ben Zaken et al. 2022, arXiv 2106.10199.
    """

    name = "bitfit"

    def start(self, draw):
        self.params = {k: v for k, v in self.named().items() if k.endswith(".bias")}


class Tfup(Method):
    """A cache of unlabelled images: nothing is learnt, no label is read.

    p is the softmax at scale 10 of unit features against W, the unit mean of a class's embeddings that were not normalised. For
    each class the 2K images with the largest p of it, of all images; of these the K with the least Σ over the 2K of
    KL(p_j ‖ p_i), in this order. K is share·images/classes, rounded down, within 9 and 16, or `shots`. Then
    scale·f·W + 0.3 exp(−(1 − f·K·s))·onehot with s = 2 (1 − KL(p ‖ p_cache)) after KL is brought to 0…1 over the image's row
    (the authors' z-score before that changes nothing). wlb12345/TFUP: main.py, utils.py.
    """

    name = "tfup"

    def start(self, draw):
        self.params, s = {}, self.settings
        texts = [self.towers.text([t.format(c) for c in CLASSES]) for t in s["templates"]]
        self.frozen = unit(torch.stack(texts).mean(0))
        features = torch.cat([Method.images(self, step) for step in s["unlabelled"]])
        share = int(len(features) * UNLABELLED_SHARE / len(CLASSES))
        k = s.get("shots") or min(max(share, FEWEST), MOST)
        p, chosen = self.p(features), []
        for c in range(len(CLASSES)):
            order, gaps = self.sorted(-p[:, c])
            some = order[: 2 * k]
            total = self.kl(p[some], p[some]).sum(0)  # of column i: Σ over j of KL(p_j ‖ p_i)
            inner, more = self.sorted(total)
            assert min(gaps, more) > 1e-9, "a tie would make the choice depend on rounding"
            chosen.append(some[inner[:k]])
        indices = torch.stack(chosen)
        self.keys = features[indices.flatten()]
        self.values = F.one_hot(torch.arange(len(CLASSES)).repeat_interleave(k), len(CLASSES)).double()
        self.extra = {"cache_indices": indices, "cache_keys": self.keys, "sim": self.similarity(Method.images(self, 0))}
        self.about = {"shots": k}

    def p(self, features):
        return (10 * features @ self.frozen.T).softmax(-1)

    def kl(self, rows, columns):
        return (rows.unsqueeze(1) * (rows.unsqueeze(1) / columns.unsqueeze(0)).log()).sum(-1)

    def sorted(self, x):
        values, order = x.sort(stable=True)
        return order, float(values.diff().min())

    def similarity(self, images):
        kl = self.kl(self.p(images), self.p(self.keys))
        low, high = kl.min(1, keepdim=True).values, kl.max(1, keepdim=True).values
        return 2 * (1 - (kl - low) / (high - low))

    def logits(self, step):
        images, s = self.images(step), self.settings
        near = (-s["beta"] * (1 - images @ self.keys.T * self.similarity(images))).exp() @ self.values
        return self.towers.logits(images, self.frozen) + s["alpha"] * near


class Close(Method):
    """A linear head learnt from texts alone: unit text + noise, made unit again; applied to unit images as they are.

    The noise is allenai/close: close/model/language_adapters.py (there before a language model). The head is ours: scale·x·weightᵀ +
    bias, weight from the class embeddings and bias from zero, so that it starts as zero-shot of these templates. A
    step's batch is each class's every prompt, classes outermost.
    """

    name = "close"

    def start(self, draw):
        templates = self.settings["templates"]
        texts = [t.format(c) for c in CLASSES for t in templates]
        self.embeddings, self.targets = unit(self.towers.text(texts)), torch.arange(len(CLASSES)).repeat_interleave(len(templates))
        self.params = {"weight": self.towers.classes(templates), "bias": torch.zeros(len(CLASSES)).double()}
        self.noise = draw.normal(self.settings["steps"], *self.embeddings.shape, std=self.settings["sigma"])
        self.extra = {"noise/texts": self.noise}
        self.starts_as = "ensemble"

    def head(self, x):
        return self.towers.logits(x, self.params["weight"]) + self.params["bias"]

    def logits(self, step):
        return self.head(self.images(step))

    def loss(self, step):
        return F.cross_entropy(self.head(unit(self.embeddings + self.noise[step])), self.targets)
