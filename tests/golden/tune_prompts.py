"""Few-shot tuning by a learnt context of the texts, restated from the authors' code: one class a method.

A method has `params` (leaves of the graph, by name), `logits(step)` of the step's batch, `loss(step)`, and `gradients(step)` when
these are not those of the loss. What is drawn at random comes from `draw`, a seeded generator.
"""

import torch
from torch.nn import functional as F

from tune_towers import CLASSES, labels, unit

PHRASE = "a photo of a"


class Draw:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=0.02):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64) * std

    def uniform(self, *shape, bound):
        return (torch.rand(*shape, generator=self.generator, dtype=torch.float64) * 2 - 1) * bound

    def linear(self, name, inputs, outputs, bias=True):
        """torch.nn.Linear's own start: uniform within ±1/√inputs, weight and bias."""
        out = {f"{name}.weight": self.uniform(outputs, inputs, bound=inputs**-0.5)}
        return out | ({f"{name}.bias": self.uniform(outputs, bound=inputs**-0.5)} if bias else {})


class Method:
    name, starts_as = None, None

    def __init__(self, towers, settings, draw):
        self.towers, self.settings, self.extra = towers, settings, {}
        self.start(draw)
        self.params = {k: v.clone().requires_grad_(True) for k, v in self.params.items()}

    def linear(self, name, x):
        return F.linear(x, self.params[f"{name}.weight"], self.params.get(f"{name}.bias"))

    def texts(self):
        raise NotImplementedError

    def images(self, step):
        return unit(self.towers.image(self.towers.pixels(step)))

    def logits(self, step):
        return self.towers.logits(self.images(step), self.texts())

    def loss(self, step):
        return F.cross_entropy(self.logits(step), labels(step))

    def gradients(self, step):
        loss = self.loss(step)
        return loss, dict(zip(self.params, torch.autograd.grad(loss, list(self.params.values()))))


class Context:
    """Where the context stands in each class's text.

    `n` learnt vectors; with a phrase they start as its first n tokens and the others of it stay fixed words behind them. All
    tokens of the phrase when n is None. The class's name and a full stop follow; `middle` puts the name behind the
    first n // 2 vectors, `front` before them all.
    """

    def __init__(self, towers, n, phrase=None, position="end"):
        words = towers.words(phrase) if phrase else []
        self.n = len(words) if n is None else n
        self.words, fixed = words[: self.n], words[self.n :]
        before = {"end": self.n, "middle": self.n // 2, "front": 0}[position]
        hole = towers.words("a")[:1]
        start = towers.specials[0]
        ids, places = [], []
        for name in CLASSES:
            own, stop = towers.words(name), towers.words(name + ".")
            tail = stop[len(own) :]
            assert stop[: len(own)] == own
            row = towers.prompt_ids(hole * before + fixed + own + hole * (self.n - before), tail)
            first, second = start, start + before + len(fixed) + len(own)
            place = torch.zeros(len(row), dtype=torch.bool)
            place[first : first + before] = True
            place[second : second + self.n - before] = True
            ids.append(row)
            places.append(place)
        self.ids, self.places = torch.tensor(ids), torch.stack(places)

    def embedding(self, towers):
        return towers.embedding.weight[torch.tensor(self.words)].detach().clone()

    def described(self):
        """Token ids of each class's text, null where a learnt vector stands, without the padding."""
        rows = []
        for ids, places in zip(self.ids.tolist(), self.places.tolist()):
            length = max(i for i, token in enumerate(ids) if token != ids[-1]) + 1
            rows.append([None if p else i for i, p in zip(ids[:length], places)])
        return rows


class CoOp(Method):
    """Context vectors in place of the template's words, one set or one a class; cross-entropy at the frozen scale.

    KaiyangZhou/CoOp: trainers/coop.py.
    """

    name = "coop"

    def start(self, draw):
        s, t = self.settings, self.towers
        self.context = Context(t, s.get("n_ctx"), s.get("init"), s.get("position", "end"))
        if s.get("init"):
            vectors = self.context.embedding(t)
        else:
            shape = (len(CLASSES),) if s.get("class_specific") else ()
            vectors = draw.normal(*shape, self.context.n, t.text_width)
        self.params = {"ctx": vectors}
        whole = s.get("init") == PHRASE and s.get("n_ctx") is None and s.get("position", "end") == "end"
        self.starts_as = "zeroshot" if whole else None

    def vectors(self):
        return self.params["ctx"]

    def texts(self):
        return unit(self.towers.text_with(self.context.ids, self.context.places, self.vectors()))


class KgCoOp(CoOp):
    """CoOp + weight · (1 − mean over classes of the cosine of learnt and hand-written text embeddings).

    htyao89/KgCoOp: trainers/kgcoop.py.
    """

    name = "kgcoop"

    def start(self, draw):
        super().start(draw)
        self.frozen = self.towers.classes((self.settings["template"],))

    def loss(self, step):
        texts = self.texts()
        logits = self.towers.logits(self.images(step), texts)
        similarity = (texts * self.frozen).sum(-1).mean()
        return F.cross_entropy(logits, labels(step)) + self.settings["weight"] * (1 - similarity)


class ProGrad(CoOp):
    """CoOp whose gradient g loses its part against h, the gradient of the soft cross-entropy to the zero-shot answer.

    Per parameter: if g·h < 0, g − lambda (g·ĥ) ĥ with ĥ = h/‖h‖. The start is the template at the end of the context, zeros before it.
    BeierZhu/Prompt-align: ProGrad.public/trainers/prograd.py, Dassl.ProGrad.pytorch/dassl/engine/trainer.py. The guard
    is ours: at a start that equals zero-shot h is rounding noise of no direction, so ‖h‖ ≤ 1e-8 ‖g‖ counts as nought.
    """

    name = "prograd"

    def start(self, draw):
        super().start(draw)
        self.frozen, self.dots = self.towers.classes(), []
        zeros = self.settings.get("zeros", 0)
        if zeros:
            words = self.context
            self.context = Context(self.towers, words.n + zeros)
            self.params["ctx"] = torch.cat([torch.zeros(zeros, self.towers.text_width).double(), words.embedding(self.towers)])
            self.starts_as = None

    def gradients(self, step):
        images, parameters = self.images(step), list(self.params.values())
        logits = self.towers.logits(images, self.texts())
        target = self.towers.logits(images, self.frozen).softmax(-1)
        loss = F.cross_entropy(logits, labels(step))
        general = -(target * logits.log_softmax(-1)).sum(1).mean()
        g = torch.autograd.grad(loss, parameters, retain_graph=True)
        h = torch.autograd.grad(general, parameters)
        self.dots.append(float((g[0] * h[0]).sum()))
        return loss, {name: self.project(*pair) for name, pair in zip(self.params, zip(g, h))}

    def project(self, g, h):
        if h.norm() <= 1e-8 * g.norm() or (g * h).sum() >= 0:
            return g
        direction = h / h.norm()
        return g - self.settings["lambda"] * (g * direction).sum() * direction


class CoCoOp(CoOp):
    """One bias vector an image, made by a small net from its unit embedding, is added to every context vector.

    KaiyangZhou/CoOp: trainers/cocoop.py.
    """

    name = "cocoop"

    def start(self, draw):
        super().start(draw)
        dim, hidden = self.towers.dim, self.towers.dim // 16
        self.params |= draw.linear("meta.fc1", dim, hidden) | draw.linear("meta.fc2", hidden, self.towers.text_width)
        self.starts_as = None  # the net's bias is not zero

    def logits(self, step):
        images, rows = self.images(step), []
        shifts = self.linear("meta.fc2", self.linear("meta.fc1", images).relu())
        for image, shift in zip(images, shifts):
            texts = unit(self.towers.text_with(self.context.ids, self.context.places, self.params["ctx"] + shift))
            rows.append(self.towers.logits(image, texts))
        return torch.stack(rows)


class Pre(CoOp):
    """CoOp with the context V replaced by V + E(V): E a one-layer two-way LSTM of half the width each way, or an MLP.

    minhanh151/PRE: trainers/pre.py.
    """

    name = "pre"

    def start(self, draw):
        super().start(draw)
        width, half = self.towers.text_width, self.towers.text_width // 2
        if self.settings["encoder"] == "lstm":
            for way in ("", "_reverse"):
                for kind, columns in (("weight_ih", [width]), ("weight_hh", [half]), ("bias_ih", []), ("bias_hh", [])):
                    self.params[f"lstm.{kind}_l0{way}"] = draw.uniform(4 * half, *columns, bound=half**-0.5)
        else:
            hidden = self.settings["hidden"]
            self.params |= draw.linear("mlp.0", width, hidden) | draw.linear("mlp.2", hidden, width)
        self.starts_as = None

    def vectors(self):
        x = self.params["ctx"]
        if self.settings["encoder"] == "mlp":
            return x + self.linear("mlp.2", self.linear("mlp.0", x).relu())
        half = x.shape[1] // 2
        weights = [v for k, v in self.params.items() if k.startswith("lstm.")]  # in torch's own order
        zeros = x.new_zeros(2, half)
        out, _, _ = torch.lstm(x.unsqueeze(1), (zeros.unsqueeze(1), zeros.unsqueeze(1)), weights, True, 1, 0.0, False, True, False)
        return x + out.squeeze(1)
