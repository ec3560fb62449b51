"""What Python says about evaluation metrics: `data/eval.json`.

    env/bin/python eval.py

Retrieval as LAION-AI/CLIP_benchmark 082089f5 `metrics/zeroshot_retrieval.py` defines it, ranks as open_clip's training
log; k-NN as facebookresearch/dino 45801c32 `eval_knn.py`; alignment and uniformity as ssnl/align_uniform's README; the
probe is scikit-learn's; the rest follows the formulas named below. Needs scikit-learn and SciPy beside torch.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, hmean
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, top_k_accuracy_score

OUT = pathlib.Path(__file__).parent / "data" / "eval.json"
RNG = np.random.default_rng(0)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def numbers(x):
    """The shortest decimals that read back as the same f32."""
    return [float(str(v)) for v in np.asarray(x, np.float32).ravel()]


def pairs(images, texts, dim, noise):
    x = RNG.normal(size=(images, dim)) + 0.5
    owner = np.concatenate([np.arange(images), RNG.integers(0, images, texts - images)])
    y = x[owner] + noise * RNG.normal(size=(texts, dim)) - 0.3
    return unit(x), unit(y), owner


def recall(scores, positive, k):
    top = torch.topk(scores, k, dim=1)[1]
    return (positive.gather(1, top).sum(1) > 0).double().mean().item()


def ranks(scores, positive):
    order = torch.argsort(scores, dim=1, descending=True)
    return 1 + positive.gather(1, order).double().argmax(1).numpy()


def retrieval():
    x, y, owner = pairs(40, 90, 6, 0.9)
    scores = torch.from_numpy(y).double() @ torch.from_numpy(x).double().T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owner)] = True
    out = {"images": numbers(x), "texts": numbers(y), "dim": 6, "image_of_text": owner.tolist(), "ks": [1, 5, 10]}
    for name, s, p in [("image", scores, positive), ("text", scores.T, positive.T)]:
        found = ranks(s, p)
        out[f"{name}_retrieval"] = {
            "recall": [recall(s, p, k) for k in out["ks"]],
            "mean_rank": found.mean(),
            # open_clip: floor(median of the ranks from 0) + 1.
            "median_rank": float(np.floor(np.median(found - 1)) + 1),
            "ranks": found.tolist(),
        }
    return out


def classification():
    labels = np.concatenate([np.arange(7), RNG.integers(0, 7, 53)])
    logits = np.round(RNG.normal(size=(60, 7)) + 1.2 * np.eye(7)[labels], 6)
    predicted = logits.argmax(1)
    hits = int((predicted == labels).sum())
    interval = binomtest(hits, len(labels)).proportion_ci(method="wilson")
    return {
        "logits": logits.ravel().tolist(),
        "labels": labels.tolist(),
        "classes": 7,
        "acc1": hits / len(labels),
        "acc1_interval": [interval.low, interval.high],
        "acc5": float(top_k_accuracy_score(labels, logits, k=5)),
        "mean_per_class_recall": float(balanced_accuracy_score(labels, predicted)),
    }


def few_shot():
    """Two classifiers of the same items; the last class is answered, but has no items. Base and new are halves of the items."""
    rng = np.random.default_rng(5)
    labels = np.concatenate([np.arange(6), rng.integers(0, 6, 84)])
    first, second = (np.round(rng.normal(size=(90, 7)) + s * np.eye(7)[labels], 6).astype(np.float32) for s in (2.0, 1.3))
    right = [x.argmax(1) == labels for x in (first, second)]
    b, c = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    # numpy's own resampling: the ends differ from ours by chance alone.
    difference = right[0].astype(float) - right[1]
    means = difference[rng.integers(0, 90, (20_000, 90))].mean(1)
    predicted = first.argmax(1)
    base, new = float(right[0][:45].mean()), float(right[0][45:].mean())
    return {
        "classes": 7,
        "labels": labels.tolist(),
        "first": numbers(first),
        "second": numbers(second),
        "acc1": float(right[0].mean()),
        # Dassl's evaluator, KaiyangZhou/Dassl.pytorch c61a1b5, dassl/evaluation/evaluator.py
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=np.unique(labels))),
        "confusion": confusion_matrix(labels, predicted, labels=np.arange(7)).ravel().tolist(),
        "answers": predicted.tolist(),
        "difference": float(difference.mean()),
        "interval": np.percentile(means, [2.5, 97.5]).tolist(),
        "only": [b, c],
        "p": binomtest(min(b, c), b + c).pvalue,
        "mcnemar": [[i, j, binomtest(i, i + j).pvalue] for i, j in [(0, 1), (3, 9), (40, 61), (2, 700), (900, 1100)]],
        "harmonic": [base, new, float(hmean([base, new]))],
        "spread": [float(np.mean([base, new, 0.5])), float(np.std([base, new, 0.5], ddof=1))],
    }


def probe():
    out = []
    for classes, dim, n in [(4, 5, 80), (2, 5, 60)]:
        centres = RNG.normal(size=(classes, dim))
        labels = np.concatenate([np.arange(classes), RNG.integers(0, classes, n - classes)])
        rows = unit(centres[labels] + 1.1 * RNG.normal(size=(n, dim)))
        cut = n * 2 // 3
        for c in [0.1, 3.16, 1000.0]:
            model = LogisticRegression(C=c, tol=1e-12, max_iter=100_000).fit(rows[:cut].astype(np.float64), labels[:cut])
            out.append(
                {
                    "classes": classes,
                    "dim": dim,
                    "c": c,
                    "train": numbers(rows[:cut]),
                    "train_labels": labels[:cut].tolist(),
                    "test": numbers(rows[cut:]),
                    "test_labels": labels[cut:].tolist(),
                    # Of two classes one row, that of the second against the first.
                    "weights": model.coef_.ravel().tolist(),
                    "intercepts": model.intercept_.tolist(),
                    "accuracy": model.score(rows[cut:].astype(np.float64), labels[cut:]),
                }
            )
    return out


def knn():
    classes, dim, n, cut = 6, 5, 120, 80
    centres = RNG.normal(size=(classes, dim))
    labels = np.concatenate([np.arange(classes), RNG.integers(0, classes, n - classes)])
    rows = unit(centres[labels] + 1.3 * RNG.normal(size=(n, dim)))
    train, test = torch.from_numpy(rows[:cut]).double(), torch.from_numpy(rows[cut:]).double()
    of_train, truth = torch.from_numpy(labels[:cut]), torch.from_numpy(labels[cut:])
    answers = {}
    for k in [1, 5, 20]:
        similarity, places = (test @ train.T).topk(k)
        weights = (similarity / 0.07).exp()
        votes = torch.zeros(len(test), classes, dtype=torch.float64).scatter_add_(1, of_train[places], weights)
        answers[k] = (votes.argmax(1) == truth).double().mean().item()
    return {
        "classes": classes,
        "dim": dim,
        "train": numbers(rows[:cut]),
        "train_labels": labels[:cut].tolist(),
        "test": numbers(rows[cut:]),
        "test_labels": labels[cut:].tolist(),
        "acc1": answers,
    }


def uniform(x):
    """ssnl/align_uniform: torch.pdist(x, p=2).pow(2).mul(-2).exp().mean().log()"""
    return torch.pdist(torch.from_numpy(x).double(), p=2).pow(2).mul(-2).exp().mean().log().item()


def measures(x, y, owner):
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    apart = ((x64[:, None] - y64[None]) ** 2).sum(-1)
    other = np.arange(len(x))[:, None] != owner[None]
    return {
        "modality_gap": float(np.linalg.norm(x64.mean(0) - y64.mean(0))),
        "alignment": float(((x64[owner] - y64) ** 2).sum(1).mean()),
        "image_uniformity": uniform(x),
        "text_uniformity": uniform(y),
        "cross_uniformity": float(np.log(np.exp(-2 * apart)[other].mean())),
    }


def effective_rank(x):
    """Roy and Vetterli 2007."""
    p = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    p = p / p.sum()
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def geometry():
    x, y, owner = pairs(25, 60, 7, 0.7)
    every = np.arange(len(x))
    full = measures(x, y, owner)
    without = []
    for image in every:
        keep = owner != image
        place = np.cumsum(every != image) - 1
        without.append(measures(x[every != image], y[keep], place[owner[keep]]))
    intervals = {}
    for name, value in full.items():
        values = np.array([row[name] for row in without])
        s = np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())
        intervals[name] = [value - 1.959963984540054 * s, value + 1.959963984540054 * s]
    labels = RNG.integers(0, 4, len(x))
    cosines, same = x.astype(np.float64) @ x.astype(np.float64).T, labels[:, None] == labels[None]
    apart = ~np.eye(len(x), dtype=bool)
    return {
        "images": numbers(x),
        "texts": numbers(y),
        "dim": 7,
        "image_of_text": owner.tolist(),
        "labels": labels.tolist(),
        "values": full,
        "intervals": intervals,
        "image_effective_rank": effective_rank(x),
        "text_effective_rank": effective_rank(y),
        # Fewer rows than numbers in one.
        "few_rows_effective_rank": effective_rank(x[:4]),
        "tolerance": float((cosines * same)[apart].mean()),
        "same_class_cosine": float(cosines[same & apart].mean()),
    }


def retention():
    images = unit(RNG.normal(size=(50, 6)))
    moved = unit(images + 0.3 * RNG.normal(size=images.shape))
    head = unit(RNG.normal(size=(9, 6)))
    turned = unit(head + 0.3 * RNG.normal(size=head.shape))
    start = 20.0 * torch.from_numpy(images).double() @ torch.from_numpy(head).double().T
    now = 25.0 * torch.from_numpy(moved).double() @ torch.from_numpy(turned).double().T
    p, q = (start - 2).sigmoid(), (now - 3).sigmoid()
    binary = p * (F.logsigmoid(start - 2) - F.logsigmoid(now - 3))
    binary = binary + (1 - p) * (F.logsigmoid(2 - start) - F.logsigmoid(3 - now))
    return {
        "dim": 6,
        "start": {"images": numbers(images), "head": numbers(head), "scale": 20.0, "bias": -2.0},
        "now": {"images": numbers(moved), "head": numbers(turned), "scale": 25.0, "bias": -3.0},
        "agreement": (start.argmax(1) == now.argmax(1)).double().mean().item(),
        "kl_softmax": F.kl_div(now.log_softmax(1), start.log_softmax(1), log_target=True, reduction="batchmean").item(),
        "kl_sigmoid": binary.sum(1).mean().item(),
        "text_drift": float(np.mean(1 - (head.astype(np.float64) * turned.astype(np.float64)).sum(1))),
    }


OUT.write_text(
    json.dumps(
        {
            "retrieval": retrieval(),
            "classification": classification(),
            "few_shot": few_shot(),
            "probe": probe(),
            "knn": knn(),
            "geometry": geometry(),
            "retention": retention(),
        }
    )
    + "\n"
)
print(OUT, OUT.stat().st_size, "bytes")
