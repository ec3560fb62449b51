"""Training objectives in f64, from the papers and the authors' code: values and the gradients of every input.

Writes `data/objectives.safetensors` (inputs of three batches, and for each case and step the value and gradients) and
`data/objectives.json` (what each case sets). Each function says where its formula is from. In all of them a row of the
loss counts by its pair's weight, and `relation` says which entries are positives and which are left out.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from objective_cases import B, CASES, DIM, K, SAMPLES, SEED, TEACHER, ChaCha8, batches


# ---------------------------------------------------------------------------------------------------- shared parts

def unit(x):
    return F.normalize(x, dim=-1)


def relation(b, labels=False):
    """Positives (B, B) and what is left out (B, B)."""
    positive = torch.eye(len(b.images), dtype=torch.bool)
    if b.duplicates == "multi":
        positive |= b.same
    if labels and b.labels is not None:
        positive |= b.labels[:, None] == b.labels[None]
    hidden = b.same & ~positive if b.duplicates == "mask" else torch.zeros_like(positive)
    return positive, hidden


def shares(p):
    p = p.double()
    return p / p.sum(1, keepdim=True)


def mean(rows, b, keep=None):
    w = b.weights if keep is None else b.weights * keep
    return (w * rows).sum() / w.sum() if w.sum() > 0 else rows.sum() * 0


def soft_ce(logits, targets, hidden):
    """Cross-entropy of each row; hidden entries are no classes."""
    logp = logits.masked_fill(hidden, float("-inf")).log_softmax(1)
    return -(targets * logp.masked_fill(hidden, 0)).sum(1)


def kl(logits, targets, hidden):
    return soft_ce(logits, targets, hidden) + torch.special.xlogy(targets, targets).sum(1)


def logits(b):
    return b.log_scale.exp() * unit(b.images) @ unit(b.texts).T


def further(b, side, z, queries):
    """Logits with the extra columns of one side behind them: constants that no pair of the batch is."""
    own = torch.einsum("bd,bkd->bk", queries, b.extra[f"own_of_{side}"])
    return torch.cat([z, b.log_scale.exp() * torch.cat([queries @ b.extra[f"shared_of_{side}"].T, own], 1)], 1)


def widened(b, side, targets, hidden):
    gone = ~b.extra[f"extra_there_of_{side}"]
    return torch.cat([targets, torch.zeros(gone.shape, dtype=torch.float64)], 1), torch.cat([hidden, gone], 1)


def ce(b, side, z, queries, targets, hidden):
    """Cross-entropies of a side's rows, with its extra columns (MoCHi, Kalantidis et al. 2020, arXiv 2010.01028, appends them to
    the logits; so does XBM, Wang et al. 2020, arXiv 1912.06798, with those of its memory)."""
    if b.extra:
        z = further(b, side, z, queries)
        targets, hidden = widened(b, side, targets, hidden)
    return soft_ce(z, targets, hidden)


def both(z, targets, hidden, b):
    if b.extra:
        of_images = ce(b, "images", z, unit(b.images), targets, hidden)
        return (mean(of_images, b) + mean(ce(b, "texts", z.T, unit(b.texts), targets, hidden.T), b)) / 2
    return (mean(soft_ce(z, targets, hidden), b) + mean(soft_ce(z.T, targets, hidden.T), b)) / 2


# ------------------------------------------------------------------------------------------------------ objectives

def clip(b, s):
    """Radford et al. 2021, arXiv 2103.00020, figure 3; smoothing as F.cross_entropy has it (ALIGN, arXiv 2102.05918)."""
    positive, hidden = relation(b)
    eps = s.get("smoothing", 0)
    return both(logits(b), (1 - eps) * shares(positive) + eps * shares(~hidden), hidden, b)


def siglip(b, s):
    """google-research/big_vision, big_vision/trainers/proj/image_text/siglip.py (642c086e), loss_fn."""
    positive, hidden = relation(b)
    bias = b.bias if b.bias is not None else b.params["bias"]
    z = logits(b) + bias
    terms = -F.logsigmoid(torch.where(positive, 1.0, -1.0).double() * z).masked_fill(hidden, 0)
    w = (b.weights[:, None] + b.weights[None]) / 2
    return (w * terms).sum() / b.weights.sum()


def dcl(b, s, weighted=False):
    """Yeh et al. 2021, arXiv 2110.06848; raminnakhli/Decoupled-Contrastive-Learning (unofficial), loss/dcl.py
    (f876c837). Cross-modal, as lucidrains/x-clip (e4e7ff24) has it: both directions, their mean."""
    positive, hidden = relation(b)
    out = positive | hidden
    x, y, scale = unit(b.images), unit(b.texts), b.log_scale.exp()
    total = 0
    for side, a, c in (("images", x, y), ("texts", y, x)):
        z = scale * a @ c.T
        weight = 1
        if weighted:
            diagonal = (a * c).sum(1)
            weight = 2 - len(a) * (diagonal / s.get("sigma", 0.5)).softmax(0)
        negatives = z.masked_fill(out, float("-inf"))
        if s.get("intra", 0):
            negatives = torch.cat([negatives, (scale * a @ a.T).masked_fill(out, float("-inf"))], 1)
        if b.extra:
            gone = ~b.extra[f"extra_there_of_{side}"]
            negatives = torch.cat([negatives, further(b, side, z, a)[:, B:].masked_fill(gone, float("-inf"))], 1)
        rows = -weight * (shares(positive) * z).sum(1) + negatives.logsumexp(1)
        total = total + mean(rows, b, (~out).any(1).double()) / 2
    return total


def dclw(b, s):
    return dcl(b, s, weighted=True)


def cwcl(b, s):
    """Srinivasa et al. 2023, arXiv 2309.14580; suinleelab/CellCLIP, src/clip/methods.py (d8138f17), cwcl_loss."""
    positive, hidden = relation(b)
    q = unit(b.start_texts if s.get("frozen", 0) else b.start_images)
    w = shares((q @ q.T / 2 + 0.5).masked_fill(hidden, 0))
    z = logits(b)
    if s.get("frozen", 0):
        z, hidden = z.T, hidden.T
    return mean(soft_ce(z, w, hidden), b) + mean(soft_ce(z.T, shares(positive), hidden.T), b)


def cuaxu(b, s):
    """Fahim et al. 2024, arXiv 2405.18570; abrar-fahim/contrastive-gap, src/evaluator.py (d9da1016), the uniformity
    terms, and clips/hf_clip.py (20c0cdd0)."""
    positive, hidden = relation(b)
    x, y = unit(b.images), unit(b.texts)
    t = s.get("temperature", 0.01)
    z = x @ y.T / t if t else logits(b)
    out = torch.eye(B, dtype=torch.bool) | b.same if b.duplicates != "off" else torch.eye(B, dtype=torch.bool)

    def uniform(a, c):
        kernel = torch.exp(-2 * (a[:, None] - c[None]).square().sum(-1))
        w = (b.weights[:, None] * b.weights[None]).masked_fill(out, 0)
        return ((w * kernel).sum() / w.sum()).log()

    align = mean((x - y).square().sum(1), b)
    total = s.get("clip", 1) * both(z, shares(positive), hidden, b) + s.get("align", 1) * align
    return total + s.get("uniform", 1) * (uniform(x, x) + uniform(y, y)) / 2 + s.get("cross", 1) * uniform(x, y)


def clip_refine(b, s):
    """Yamaguchi et al. 2025; yshinya6/clip-refine, updater/contrastive.py (31c26713): distill, kd_loss and
    RandRegUpdater with std_sample and a shared reference. Nothing is normalised and nothing scaled."""
    positive, hidden = relation(b)
    alpha, t = s.get("alpha", 0.5), s.get("temperature", 1)
    student, teacher = b.images @ b.texts.T / t, b.start_images @ b.start_texts.T / t
    total = 0
    for z, q in ((student, teacher), (student.T, teacher.T)):
        targets = alpha * shares(positive) + (1 - alpha) * q.masked_fill(hidden, float("-inf")).softmax(1)
        total = total + mean(kl(z, targets, hidden), b) * t * t / 2
    r = torch.tensor(b.random.normal(B * DIM), dtype=torch.float64).view(B, DIM)
    pull = (b.images - r).square().mean(1) + (b.texts - r).square().mean(1)
    return total + s.get("rafa", 1) * mean(pull, b)


class Isogclr:
    """Qiu et al. 2023, arXiv 2305.11965; zhqiu/contrastive-learning-iSogCLR, bimodal_exps/models/losses.py (858647c3),
    iSogCLR_New_Loss without the temperature network. A pair that is seen first starts its average, as all do in the
    authors' first epoch; sums over negatives are means, so that their number may vary."""

    def __init__(self, s):
        self.gamma, self.rho = s.get("gamma", 0.8), s.get("rho", 8.0)
        self.beta, self.eta = s.get("beta", 0.5), s.get("eta", 1e-5)
        full = lambda v: torch.full((SAMPLES,), v, dtype=torch.float64)
        self.s, self.tau, self.u = [full(-1.0), full(-1.0)], [full(s.get("tau", 0.01)) for _ in "it"], [full(0.0), full(0.0)]

    def __call__(self, b, s):
        positive, hidden = relation(b)
        seen = ~(positive | hidden)
        count = seen.sum(1)
        sim = unit(b.images) @ unit(b.texts).T
        total = 0
        for m, z in enumerate((sim, sim.T)):
            h = z - z.diagonal()[:, None]
            tau = self.tau[m][b.index]
            e = (h.detach() / tau[:, None]).exp() * seen
            g = e.sum(1) / count
            old = self.s[m][b.index]
            new = torch.where(old < 0, g, (1 - self.gamma) * old + self.gamma * g)
            self.s[m][b.index] = new
            weights = e / (new * count)[:, None]
            total = total + mean((weights * h).sum(1), b, (count > 0).double())
            grad = new.log() + self.rho - (weights * h.detach()).sum(1) / tau
            self.u[m][b.index] = (1 - self.beta) * self.u[m][b.index] + self.beta * grad.clamp(-5, 5)
            self.tau[m][b.index] = (tau - self.eta * self.u[m][b.index]).clamp(0.005, 0.05)
        return total


def supcon(b, s):
    """Khosla et al. 2020, arXiv 2004.11362, L_out; HobbitLong/SupContrast, losses.py (02f458ce), contrast_mode all, with
    image and caption as the two views. `intra` 0: only the other modality, as UniCL (arXiv 2204.03610)."""
    positive, hidden = relation(b, labels=True)
    t = s.get("temperature", 0.07)
    scale = 1 / t if t else b.log_scale.exp()
    if not s.get("intra", 1):
        return both(scale * unit(b.images) @ unit(b.texts).T, shares(positive), hidden, b)
    f = torch.cat([unit(b.images), unit(b.texts)])
    me = torch.eye(2 * B, dtype=torch.bool)
    z = (scale * f @ f.T).masked_fill(me | hidden.repeat(2, 2), float("-inf"))
    mask = positive.repeat(2, 2) & ~me
    logp = z - z.logsumexp(1, keepdim=True)
    rows = -logp.masked_fill(~mask, 0).sum(1) / mask.sum(1)
    return (mean(rows[:B], b) + mean(rows[B:], b)) / 2


class Albef:
    """Li et al. 2021, arXiv 2107.07651; salesforce/ALBEF, models/model_retrieval.py (69e92255), the contrastive part.
    The queue starts empty; `multi` is the authors' choice for keys with the same image id."""

    def __init__(self, s):
        self.size = s.get("queue", 65536)
        self.keys = [torch.empty(0, DIM, dtype=torch.float64) for _ in "it"]
        self.ids = torch.empty(0, dtype=torch.int64)

    def __call__(self, b, s):
        alpha = s.get("alpha", 0.4) * min(1, b.step / b.epoch_steps)
        positive, hidden = relation(b)
        again = b.image_ids[:, None] == self.ids[None]
        none = torch.zeros_like(again)
        positive = torch.cat([positive, again if b.duplicates == "multi" else none], 1)
        hidden = torch.cat([hidden, again if b.duplicates == "mask" else none], 1)
        fresh = [unit(b.ema_images), unit(b.ema_texts)]
        keys = [torch.cat([new, old]) for new, old in zip(fresh, self.keys)]
        scale, total = b.log_scale.exp(), 0
        for query, slow, candidates in ((unit(b.images), fresh[0], keys[1]), (unit(b.texts), fresh[1], keys[0])):
            q = (scale.detach() * slow @ candidates.T).masked_fill(hidden, float("-inf")).softmax(1)
            targets = alpha * q + (1 - alpha) * shares(positive)
            total = total + mean(soft_ce(scale * query @ candidates.T, targets, hidden), b) / 2
        self.keys = [k[: self.size] for k in keys]
        self.ids = torch.cat([b.image_ids, self.ids])[: self.size]
        return total


def sdm(b, s):
    """Jiang and Ye 2023, arXiv 2303.12501; anosorae/IRRA, model/objectives.py (5fc05737), compute_sdm; temperature 0.02
    of their options."""
    positive, hidden = relation(b, labels=True)
    t = s.get("temperature", 0.02)
    z = (1 / t if t else b.log_scale.exp()) * unit(b.images) @ unit(b.texts).T
    total = 0
    for z, out in ((z, hidden), (z.T, hidden.T)):
        logp = z.masked_fill(out, float("-inf")).log_softmax(1)
        rows = logp.exp() * (logp.masked_fill(out, 0) - (shares(positive) + 1e-8).log())
        total = total + mean(rows.sum(1), b)
    return total


def distill(b, s):
    """Yang et al. 2024, CLIP-KD, arXiv 2307.12732; winycg/CLIP-KD, src/open_clip/loss.py (e151019c): ckd_loss, fd_loss,
    icl_loss with the weights of the published runs (1, 2000, 1). The scale of the last is the exponential of a parameter."""
    _, hidden = relation(b)
    x, y, tx, ty = unit(b.images), unit(b.texts), unit(b.teacher_images), unit(b.teacher_texts)
    z, q = b.log_scale.exp() * x @ y.T, b.teacher_scale * tx @ ty.T
    soft = lambda q, out: q.masked_fill(out, float("-inf")).softmax(1)
    match = (mean(kl(z, soft(q, hidden), hidden), b) + mean(kl(z.T, soft(q.T, hidden.T), hidden.T), b)) / 2
    if tx.shape[1] != DIM:
        p = b.params
        x = unit(F.linear(b.images, p["image_proj.weight"], p["image_proj.bias"]))
        y = unit(F.linear(b.texts, p["text_proj.weight"], p["text_proj.bias"]))
    near = mean((x - tx).square().mean(1) + (y - ty).square().mean(1), b)
    scale, eye = b.params["log_scale"].exp(), torch.eye(B, dtype=torch.float64)
    cross = (mean(soft_ce(scale * x @ ty.T, eye, hidden), b) + mean(soft_ce(scale * y @ tx.T, eye, hidden), b)) / 2
    return s.get("logits", 1) * match + s.get("features", 2000) * near + s.get("cross", 1) * cross


def filip(b, s):
    """Yao et al. 2021, arXiv 2111.07783, equations 4 to 6; padding left out of both mean and maximum, as in
    lucidrains/x-clip, x_clip/x_clip.py (e4e7ff24, unofficial)."""
    positive, hidden = relation(b)
    sim = torch.einsum("ipd,jwd->ijpw", unit(b.token_images), unit(b.token_texts))
    pad = ~b.words
    of_images = sim.masked_fill(pad[None, :, None], float("-inf")).amax(3).mean(2)
    of_texts = sim.amax(2).masked_fill(pad[None], 0).sum(2) / b.words.sum(1)[None]
    scale, targets = b.log_scale.exp(), shares(positive)
    return (mean(soft_ce(scale * of_images, targets, hidden), b) + mean(soft_ce(scale * of_texts.T, targets, hidden.T), b)) / 2


def with_negatives(b, x, y):
    positive, hidden = relation(b)
    scale = b.log_scale.exp()

    def extended(side, queries, candidates, negatives, there, out):
        if negatives is None:
            return mean(ce(b, side, scale * queries @ candidates.T, queries, shares(positive), out), b)
        z = scale * queries @ torch.cat([candidates, unit(negatives).flatten(0, 1)]).T
        out = torch.cat([out, ~there.flatten().expand(B, -1)], 1)
        targets = torch.cat([shares(positive), torch.zeros(B, B * K, dtype=torch.float64)], 1)
        return mean(ce(b, side, z, queries, targets, out), b)

    rows = extended("images", x, y, b.neg_texts, b.neg_there, hidden)
    return (rows + extended("texts", y, x, b.neg_images, b.neg_images_there, hidden.T)) / 2


def negclip(b, s):
    """Yuksekgonul et al. 2023, arXiv 2210.01936; vinid/neg_clip, src/open_clip/loss.py and src/training/train.py: images
    against all captions, captions against the images only. Hard images are pairs of the batch like others."""
    return with_negatives(b, unit(b.images), unit(b.texts))


def degla(b, s):
    """Hu et al. 2025, arXiv 2504.16801; xiaoxing2001/DeGLA, src/open_clip/loss.py (1c5e9606), CLIPloss_DeGLA. A caption
    meets its own negatives, as in the paper; the code's mask of get_text_local_loss fits another order of negatives."""
    x, y, n = unit(b.images), unit(b.texts), unit(b.neg_texts)
    tx, ty, tn = unit(b.ema_images), unit(b.ema_texts), unit(b.ema_neg_texts)
    scale, gone = b.log_scale.exp(), ~b.neg_there

    def own(anchor, positive, factor):
        z = torch.cat([(anchor * positive).sum(1, keepdim=True), torch.einsum("bd,bkd->bk", anchor, n)], 1) * factor
        z = z.masked_fill(torch.cat([torch.zeros(B, 1, dtype=torch.bool), gone], 1), float("-inf"))
        return mean(F.cross_entropy(z, torch.zeros(B, dtype=torch.long), reduction="none"), b)

    w = b.weights / b.weights.mean()
    apart = (x - tx).square().sum(1) + (y - ty).square().sum(1)
    apart = apart + (n - tn).square().sum(2).masked_fill(gone, 0).sum(1)
    total = with_negatives(SimpleNamespace(**{**vars(b), "neg_images": None}), x, y)
    total = total + s.get("image_local", 0.1) * own(x, y, scale) + s.get("text_local", 0.1) * own(y, ty, s.get("text_scale", 10))
    return total + s.get("distill", 0.005) * (w * apart).sum()


OBJECTIVES = {
    "clip": clip, "siglip": siglip, "dcl": dcl, "dclw": dclw, "cwcl": cwcl, "cuaxu": cuaxu, "clip-refine": clip_refine,
    "isogclr": Isogclr, "supcon": supcon, "albef": Albef, "sdm": sdm, "distill": distill, "filip": filip,
    "negclip": negclip, "degla": degla,
}


# ------------------------------------------------------------------------------------------------------------ runs

LEAVES = ["images", "texts", "neg_texts", "neg_images", "token_images", "token_texts", "log_scale", "bias"]


def params(name, c):
    """The objective's own parameters: numbers that f32 holds exactly."""
    g = torch.Generator().manual_seed(5)
    draw = lambda *shape: (torch.randn(shape, generator=g) * 0.4).double().requires_grad_()
    if name == "siglip" and not c["bias"]:
        return {"bias": draw()}
    if name == "distill":
        sides = [f"{m}_proj.{p}" for m in ("image", "text") for p in ("weight", "bias")] if c["teacher"] != DIM else []
        return {"log_scale": draw(), **{k: draw(TEACHER, DIM) if k.endswith("weight") else draw(TEACHER) for k in sides}}
    return {}


def run(name, c, inputs):
    objective = OBJECTIVES[name]
    objective = objective(c["settings"]) if isinstance(objective, type) else objective
    own, random, out = params(name, c), ChaCha8(SEED), {f"param.{k}": v.detach() for k, v in params(name, c).items()}
    for step in range(c["steps"]):
        raw = {k: v.clone() for k, v in inputs[step].items()}
        leaves = {k: raw[k].requires_grad_() for k in LEAVES}
        teacher = {f"teacher_{k}": raw[f"teacher{c['teacher']}_{k}"] for k in ("images", "texts")}
        b = SimpleNamespace(**{**raw, **teacher}, teacher_scale=20.0, params=own, random=random, step=step, epoch_steps=2)
        b.duplicates = c["duplicates"]
        b.weights = raw["weights"] if c["weights"] else torch.ones(B, dtype=torch.float64)
        b.labels = raw["labels"] if c["labels"] else None
        b.bias = leaves["bias"] if c["bias"] else None
        b.extra = {k: v for k, v in raw.items() if "_of_" in k} if c["extra"] else None
        b.neg_images = leaves["neg_images"] if c["neg_images"] else None
        value = objective(b, c["settings"])
        everything = {**leaves, **{f"param.{k}": v for k, v in own.items()}}
        gradients = torch.autograd.grad(value, list(everything.values()), allow_unused=True)
        out[f"{step}.value"] = value
        out |= {f"{step}.d.{k}": d for k, d in zip(everything, gradients) if d is not None}
    return out


def write(folder: Path):
    torch.set_num_threads(1)
    inputs = list(batches())
    tensors = {f"batch{i}.{k}": v for i, batch in enumerate(inputs) for k, v in batch.items()}
    cases = {f"{name}/{i}": {"objective": name, **c} for name, all in CASES.items() for i, c in enumerate(all)}
    for key, c in cases.items():
        tensors |= {f"{key}/{k}": v for k, v in run(c["objective"], c, inputs).items()}
    plain = {k: v.detach().to(torch.uint8 if v.dtype == torch.bool else v.dtype).contiguous().clone() for k, v in tensors.items()}
    save_file(plain, folder / "objectives.safetensors")
    (folder / "objectives.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    write(Path(__file__).parent / "data")
