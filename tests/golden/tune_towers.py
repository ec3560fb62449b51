"""The two towers of a tiny checkpoint with prompts put in, for the references of few-shot tuning.

The towers are the modules of transformers and open_clip themselves, in f64; prompts enter through hooks, so that masks,
positions, norms and pooling stay the library's own.

* Context vectors take the place of token embeddings before positions are added.
* Deep text prompts replace, before block l (0 < l < depth), what stands at the context's places. They get no position.
* Image prompts are appended behind the patches once positions have been added, before the norm in front of the blocks
  where there is one, and get no position; before block l (0 < l < depth) the last n tokens are replaced.
* A tower that pools its class token is not changed by that. A text tower that pools by mean takes every token that is
  seen, the context included. (An image tower that pools by mean has to take its own patches alone; none is used here.)
"""

import contextlib
import json

import torch
from torch.func import functional_call
from torch.nn import functional as F

import checkpoints
import oracle
import trajectory

CLASSES = ["cat", "dog", "red fox", "aeroplane", "ice cream cone"]
TEMPLATE = "a photo of a {}."
TEMPLATES = [TEMPLATE, "a bad photo of the {}.", "itap of a {}."]
BATCH = trajectory.BATCH


def unit(x):
    return F.normalize(x, dim=-1, eps=0.0)


def labels(step):
    return (torch.arange(BATCH) + step) % len(CLASSES)


@contextlib.contextmanager
def hooked(hooks):
    """Hooks of the form (module, before or None, after or None): functions of one tensor."""
    handles = []
    for module, before, after in hooks:
        if before:
            handles.append(module.register_forward_pre_hook(lambda _, args, f=before: (f(args[0]), *args[1:])))
        if after:
            handles.append(module.register_forward_hook(lambda _, args, out, f=after: f(out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Towers:
    def __init__(self, path):
        checkpoints.register_tiny_trunks()
        self.reference = oracle.load(path)
        self.model = self.reference.model.double().eval().requires_grad_(False)
        self.size = self.reference.image_size
        self.scale = float(self.model.logit_scale.exp())
        bias = getattr(self.model, "logit_bias", None)
        self.bias = 0.0 if bias is None else float(bias)
        self.overrides = {}  # weights by name, in place of the model's own
        if isinstance(self.reference, oracle.OpenClip):
            text, trunk = self.model.text.transformer, self.model.visual.trunk
            self.embedding, self.text_blocks = text.embeddings.word_embeddings, text.encoder.layer
            self.before_blocks, self.image_blocks = trunk.norm_pre, trunk.blocks
            mean, std = (self.model.visual.preprocess_cfg[k] for k in ("mean", "std"))
            self.specials = (1, 1)  # [CLS] in front, [SEP] behind
        else:
            text, image = self.model.text_model, self.model.vision_model
            self.embedding, self.text_blocks = text.embeddings.token_embedding, text.encoder.layers
            self.before_blocks, self.image_blocks = getattr(image, "pre_layrnorm", None), image.encoder.layers
            config = json.loads((path / "preprocessor_config.json").read_text())
            mean, std = config["image_mean"], config["image_std"]
            self.specials = (0, 1) if self.reference.siglip else (1, 1)
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32) for v in (mean, std))
        self.text_width = self.embedding.weight.shape[1]
        self.image_width = self.image_blocks[0].norm1.normalized_shape[0] if hasattr(self.image_blocks[0], "norm1") \
            else self.image_blocks[0].layer_norm1.normalized_shape[0]
        self.dim = self.text([TEMPLATE]).shape[1]

    # ---- tokens

    def ids(self, texts):
        return self.reference.tokens(texts)["input_ids"]

    def words(self, text):
        """The tokens of a text without those that every text has around it."""
        row = self.ids([text])[0].tolist()
        pad = row[-1]  # also the end token, in CLIP and SigLIP
        row = row[: row.index(pad)] if pad in row else row
        before = self.specials[0]
        ends = 1 if isinstance(self.reference, oracle.OpenClip) else 0  # [SEP] is not the padding
        return row[before : len(row) - ends]

    def prompt_ids(self, prefix, suffix):
        """Tokens of a whole text with its special tokens, padded as the tower wants it: the context's places hold any token."""
        row = self.ids([""])[0].tolist()
        start, rest = row[: self.specials[0]], row[self.specials[0] :]
        words = prefix + suffix
        assert len(start) + len(words) + self.specials[1] <= len(row), "the text does not fit"
        return (start + words + rest)[: len(row)]

    # ---- features, not normalised

    def call(self, method, *args, **kwargs):
        if not self.overrides:
            return getattr(self.model, method)(*args, **kwargs)

        class Bound(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, *args, **kwargs):
                return getattr(self.model, method)(*args, **kwargs)

        weights = {f"model.{name}": value for name, value in self.overrides.items()}
        return functional_call(Bound(self.model), weights, args, kwargs)

    def text(self, texts):
        return self.text_of(self.ids(texts))

    def text_of(self, ids):
        if isinstance(self.reference, oracle.OpenClip):
            return self.call("encode_text", ids, normalize=False)
        return self.call("get_text_features", input_ids=ids).pooler_output

    def text_with(self, ids, places, context, deep=()):
        """`ids` and `places` (texts, tokens), the latter true where the context stands; `context` (n, width) or
        (texts, n, width); `deep` the prompts of blocks 1, 2, …"""
        rows = len(ids)

        def put(vectors):
            vectors = vectors.expand(rows, *vectors.shape[-2:])
            return lambda x: x.masked_scatter(places.unsqueeze(-1).expand_as(x), vectors)

        hooks = [(self.embedding, None, put(context))]
        hooks += [(block, put(p), None) for block, p in zip(self.text_blocks[1:], deep)]
        with hooked(hooks):
            return self.text_of(ids)

    def pixels(self, step):
        scaled = (trajectory.pixel_bytes(step, self.size).to(torch.float64) * (1 / 255.0)).to(torch.float32)
        return ((scaled - self.mean) / self.std).permute(0, 3, 1, 2).double()

    def image(self, pixels, prompts=()):
        """`prompts` (n, width) of blocks 0, 1, …"""

        def append(p):
            return lambda x: torch.cat([x, p.expand(len(x), *p.shape)], 1)

        def replace(p):
            return lambda x: torch.cat([x[:, : -len(p)], p.expand(len(x), *p.shape)], 1)

        hooks = [(self.before_blocks, append(prompts[0]), None)] if prompts else []
        hooks += [(block, replace(p), None) for block, p in zip(self.image_blocks[1:], prompts[1:])]
        with hooked(hooks):
            if isinstance(self.reference, oracle.OpenClip):
                return self.call("encode_image", pixels, normalize=False)
            return self.call("get_image_features", pixel_values=pixels).pooler_output

    # ---- zero-shot

    def logits(self, images, classes):
        return self.scale * images @ classes.T + self.bias

    def classes(self, templates=(TEMPLATE,)):
        """Unit mean of the unit embeddings of a class's prompts, (classes, dim)."""
        texts = [unit(self.text([t.format(c) for c in CLASSES])) for t in templates]
        return unit(torch.stack(texts).mean(0))
