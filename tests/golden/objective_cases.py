"""What training objectives are tried on: batches, settings, and random numbers as the Rust side draws them."""

import math
import struct

import torch

B, DIM, TEACHER, K, PATCHES, WORDS, SAMPLES = 6, 12, 10, 3, 5, 4, 9
SHARED, OWN = 2, 1
SEED = bytes([7] * 32)

OFF, MASK, MULTI = {"duplicates": "off"}, {"duplicates": "mask"}, {"duplicates": "multi"}
WEIGHTS, LABELS, BIAS, SHORT = {"weights": True}, {"labels": True}, {"bias": True}, {"teacher": TEACHER}
EXTRA = {"extra": True}


def case(*parts, steps=1, **settings):
    merged = {"duplicates": "off", "weights": False, "labels": False, "bias": False, "neg_images": False, "teacher": DIM, "extra": False}
    for part in parts:
        merged |= part
    return merged | {"steps": steps, "settings": settings}


CASES = {
    "clip": [case(), case(MASK, WEIGHTS, smoothing=0.1), case(MULTI), case(MULTI, BIAS, smoothing=0.1),
             case(EXTRA), case(EXTRA, MULTI, WEIGHTS, smoothing=0.1)],
    "siglip": [case(), case(MASK, WEIGHTS, BIAS), case(MULTI, BIAS)],
    "dcl": [case(), case(MASK, WEIGHTS), case(MULTI), case(MASK, intra=1), case(MULTI, intra=1), case(EXTRA, MASK), case(EXTRA, intra=1)],
    "dclw": [case(), case(MASK, WEIGHTS), case(MULTI, sigma=0.3), case(EXTRA, MULTI)],
    "cwcl": [case(), case(MASK, WEIGHTS, frozen=1), case(MULTI), case(MASK)],
    "cuaxu": [case(), case(MASK, WEIGHTS, temperature=0, align=0.5, uniform=2, cross=3), case(MULTI, clip=0.5)],
    "clip-refine": [case(steps=3), case(MASK, WEIGHTS, temperature=2, alpha=0.3), case(MULTI, rafa=0.5)],
    "isogclr": [case(steps=3), case(MASK, WEIGHTS, steps=3, eta=1e-3, tau=0.03), case(MULTI, steps=3, eta=1e-2, gamma=0.5)],
    "supcon": [case(LABELS), case(LABELS, MASK, WEIGHTS, temperature=0), case(LABELS, MULTI, intra=0), case(LABELS, MULTI)],
    "albef": [case(steps=3, queue=8), case(MASK, WEIGHTS, steps=3, queue=8, alpha=0.6), case(MULTI, steps=3, queue=7)],
    "sdm": [case(LABELS), case(MASK, WEIGHTS, temperature=0), case(MULTI, LABELS, temperature=0.1)],
    "distill": [case(), case(SHORT), case(MASK, WEIGHTS, SHORT, features=2, logits=3)],
    "filip": [case(), case(MASK, WEIGHTS), case(MULTI)],
    "negclip": [case(), case(MASK, WEIGHTS), case(MULTI, {"neg_images": True}), case(EXTRA, MASK)],
    "degla": [case(), case(MASK, WEIGHTS), case(MULTI, image_local=0.3, text_local=0.2, distill=0.1, text_scale=5),
              case(EXTRA)],
}


class ChaCha8:
    """The stream cipher's words in order (Bernstein 2008, 8 rounds, nonce 0), and normal numbers from pairs of them."""

    def __init__(self, seed):
        self.key, self.block, self.words = struct.unpack("<8I", seed), 0, []

    def word(self):
        if not self.words:
            start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *self.key, self.block & 0xFFFFFFFF, self.block >> 32, 0, 0]
            x = start[:]
            turn = lambda v, n: ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF
            for step in range(8):
                for i in range(4):
                    a, c, d, e = (i, 4 + i, 8 + i, 12 + i) if step % 2 == 0 else (i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
                    for left, right in ((16, 12), (8, 7)):
                        x[a] = (x[a] + x[c]) & 0xFFFFFFFF
                        x[e] = turn(x[e] ^ x[a], left)
                        x[d] = (x[d] + x[e]) & 0xFFFFFFFF
                        x[c] = turn(x[c] ^ x[d], right)
            self.words = [(v + w) & 0xFFFFFFFF for v, w in zip(x, start)]
            self.block += 1
        return self.words.pop(0)

    def normal(self, count):
        """Box and Muller 1958."""
        out = []
        while len(out) < count:
            u, v = ((self.word() + 0.5) / 2**32 for _ in range(2))
            r = math.sqrt(-2 * math.log(u))
            out += [r * math.cos(2 * math.pi * v), r * math.sin(2 * math.pi * v)]
        return out[:count]


def extra(images, texts):
    """Unit columns near the captions (for images) and near the images (for captions): what all meet, and each one's own."""
    g = torch.Generator().manual_seed(29)
    out = {}
    for side, near in (("images", texts), ("texts", images)):
        unit = lambda x: torch.nn.functional.normalize(x, dim=-1)
        own = near[:, None] + 0.8 * torch.randn(B, OWN, DIM, generator=g, dtype=torch.float64)
        out[f"shared_of_{side}"] = unit(torch.randn(SHARED, DIM, generator=g, dtype=torch.float64))
        out[f"own_of_{side}"] = unit(own)
        there = torch.rand(B, SHARED + OWN, generator=g) < 0.8
        there[2] = False
        out[f"extra_there_of_{side}"] = there
    return out


def batches():
    """Three batches of six pairs out of nine; pairs 1 and 2, and 6 and 7, show one image, 4 and 5 have one caption."""
    g = torch.Generator().manual_seed(23)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    image, text, label = [0, 1, 1, 3, 4, 5, 6, 6, 8], [0, 1, 2, 3, 4, 4, 6, 7, 8], [0, 1, 2, 0, 3, 3, 1, 0, 2]
    for step, index in enumerate(([0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8], [0, 2, 4, 6, 8, 1])):
        of = lambda table: torch.tensor(table)[index]
        equal = lambda ids: ids[:, None] == ids[None]
        same = (equal(of(image)) | equal(of(text))) & ~torch.eye(B, dtype=torch.bool)
        x = draw(B, DIM)
        y = 0.6 * x + draw(B, DIM)
        n = y[:, None] + 0.7 * draw(B, K, DIM)
        near = lambda t: t + 0.3 * draw(*t.shape)
        there, image_there, words = (torch.rand(B, n, generator=g) < 0.7 for n in (K, K, WORDS))
        there[1], words[:, 0] = False, True
        # Numbers that f32 holds exactly, so that the f32 test starts from the same ones.
        rounded = lambda t: t.float().double() if t.is_floating_point() else t
        inputs = {
            "images": x, "texts": y, "neg_texts": n, "neg_images": x[:, None] + draw(B, K, DIM),
            "token_images": draw(B, PATCHES, DIM), "token_texts": draw(B, WORDS, DIM),
            "log_scale": torch.tensor(2.3 + 0.1 * step, dtype=torch.float64), "bias": torch.tensor(-1.7, dtype=torch.float64),
            "start_images": near(x), "start_texts": near(y), "ema_images": near(x), "ema_texts": near(y), "ema_neg_texts": near(n),
            f"teacher{DIM}_images": draw(B, DIM), f"teacher{DIM}_texts": draw(B, DIM),
            f"teacher{TEACHER}_images": draw(B, TEACHER), f"teacher{TEACHER}_texts": draw(B, TEACHER),
            "index": torch.tensor(index), "image_ids": of(image), "labels": of(label), "same": same,
            "neg_there": there, "neg_images_there": image_there, "words": words,
            "weights": torch.rand(B, generator=g) + 0.25,
        }
        # Only the first batch has them, so that the file stays small.
        inputs |= extra(x, y) if step == 0 else {}
        yield {k: rounded(v) for k, v in inputs.items()}
