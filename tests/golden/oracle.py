"""The reference answer for a checkpoint directory, read from its files the way its own library reads them.

`config.json` + `model.safetensors`  -> transformers (image processors of the PIL backend)
`open_clip_config.json`              -> open_clip
"""

import contextlib
import json
from pathlib import Path

import numpy
import open_clip
import PIL
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.utils import reparameterize_model
from torch.nn import functional as F
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

VERSIONS = {
    module.__name__: module.__version__
    for module in (torch, torchvision, transformers, open_clip, timm, PIL, numpy)
}


# model_type: model, image processor, and the most tokens of a text if its positions do not say
KINDS = {
    "clip": (transformers.CLIPModel, CLIPImageProcessorPil, None),
    "siglip": (transformers.SiglipModel, SiglipImageProcessorPil, None),
    "metaclip_2": (transformers.MetaClip2Model, CLIPImageProcessorPil, None),
    "chinese_clip": (transformers.ChineseCLIPModel, ChineseCLIPImageProcessorPil, 52),
    "align": (transformers.AlignModel, EfficientNetImageProcessorPil, 64),
    "altclip": (transformers.AltCLIPModel, CLIPImageProcessorPil, "tokenizer"),
}


class Hf:
    """transformers: CLIPModel, SiglipModel and others of their kind."""

    name = "transformers"

    def __init__(self, path: Path):
        self.path = path
        kind = json.loads((path / "config.json").read_text())["model_type"]
        model, processor, context = KINDS[kind]
        self.siglip, self.align = kind == "siglip", kind == "align"
        self.model, loading = model.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        assert not any(loading.values()), loading  # missing tensors would be drawn at random
        self.model.eval()
        self.processor = processor.from_pretrained(path)
        self.image_size = self.model.config.vision_config.image_size
        self.tokenizer = self._tokenizer()
        self.context = self.model.config.text_config.max_position_embeddings
        if context:
            self.context = self.tokenizer.model_max_length if context == "tokenizer" else min(context, self.context)

    def _tokenizer(self):
        config = self.path / "tokenizer_config.json"
        if not config.exists():
            return None
        # SigLIP 2 repositories name Gemma's tokenizer; the lower-casing is in transformers' own SigLIP 2 class.
        if self.siglip and "Gemma" in json.loads(config.read_text()).get("tokenizer_class", ""):
            return Siglip2Tokenizer.from_pretrained(self.path)
        return transformers.AutoTokenizer.from_pretrained(self.path)

    def pixels(self, files, size=None):
        # SigLIP 2 repositories say `do_convert_rgb: null`, with which the reference refuses whatever is not RGB.
        options = {"do_convert_rgb": True}
        if size:
            square = {"height": size, "width": size}
            squash = dict(self.processor.size).get("height") is not None
            options |= {"size": square} if squash else {"size": {"shortest_edge": size}, "crop_size": square}
        return torch.cat([self.processor(Image.open(f), return_tensors="pt", **options).pixel_values for f in files])

    def tokens(self, texts):
        batch = self.tokenizer(
            texts, padding="max_length", max_length=self.context, truncation=True, return_tensors="pt"
        )
        # SigLIP attends to its padding; the mask a fast tokenizer returns must not reach the model.
        return {"input_ids": batch.input_ids} if self.siglip else {k: batch[k] for k in ("input_ids", "attention_mask")}

    def image(self, pixels, size=None):
        if self.align:
            return self.model.get_image_features(pixel_values=pixels).pooler_output
        return self.model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=size is not None).pooler_output

    def noise(self, pixels):
        return random_pixels(pixels)

    def stored(self, name, pixels):
        return {name: pixels}

    def text(self, tokens):
        return self.model.get_text_features(**tokens).pooler_output

    def logits(self, pixels, tokens):
        return self.model(pixel_values=pixels, **tokens).logits_per_image


class NaFlex(Hf):
    """transformers: Siglip2Model, in which every image has a size of its own."""

    def __init__(self, path: Path):
        self.path, self.siglip = path, True
        self.model = transformers.Siglip2Model.from_pretrained(path, dtype=torch.float32).eval()
        self.processor = Siglip2ImageProcessorPil.from_pretrained(path)
        self.context = self.model.config.text_config.max_position_embeddings
        self.image_size = None
        self.tokenizer = self._tokenizer()

    def pixels(self, files, size=None):
        most = (size // self.processor.patch_size) ** 2 if size else self.processor.max_num_patches
        images = [Image.open(f) for f in files]
        return dict(self.processor(images, return_tensors="pt", do_convert_rgb=True, max_num_patches=most))

    def noise(self, pixels):
        values = torch.randn(2, *pixels["pixel_values"].shape[1:], generator=torch.Generator().manual_seed(0))
        return {"pixel_values": values, **{k: pixels[k][:2] for k in ("pixel_attention_mask", "spatial_shapes")}}

    def stored(self, name, pixels):
        """The images without padding, (3, height, width) one behind the other, and their sizes."""
        side, images = self.processor.patch_size, []
        for patches, (rows, columns) in zip(pixels["pixel_values"], pixels["spatial_shapes"].tolist()):
            patches = patches[: rows * columns].view(rows, columns, side, side, 3)
            images.append(patches.permute(4, 0, 2, 1, 3).flatten())
        return {name: torch.cat(images), f"{name}_sizes": (pixels["spatial_shapes"] * side).float()}

    def image(self, pixels, size=None):
        return self.model.get_image_features(**pixels).pooler_output

    def logits(self, pixels, tokens):
        return self.model(**pixels, **tokens).logits_per_image


class OpenClip:
    """open_clip: CLIP and CustomTextCLIP."""

    name = "open_clip"

    def __init__(self, path: Path):
        self.path = path
        self.model = self._load()
        size = self.model.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        self.siglip = self.model.logit_bias is not None
        text = json.loads((path / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
        folder = text.get("hf_tokenizer_name") or ""
        if folder and (path / folder).is_dir():  # a tokenizer kept in a folder of the checkpoint
            self.tokenizer = open_clip.tokenizer.HFTokenizer(
                str(path / folder), context_length=text["context_length"], **text.get("tokenizer_kwargs", {})
            )
        else:
            self.tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")

    def _load(self, size=None):
        weights = self.path / "open_clip_model.safetensors"
        folded = weights.exists() and any("reparam_conv" in name for name in safe_open(weights, "pt").keys())
        with contextlib.chdir(self.path):  # a relative hf_model_name is a folder of the checkpoint
            model = open_clip.create_model("local-dir:.", force_image_size=size, load_weights=not folded).eval()
        if folded:  # re-parameterised by timm, which open_clip cannot read
            model.visual.trunk = reparameterize_model(model.visual.trunk)
            model.load_state_dict(load_file(weights))
        return model

    def pixels(self, files, size=None):
        config = dict(self.model.visual.preprocess_cfg)
        if size:
            config["size"] = (size, size)
        transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**config), is_train=False)
        return torch.stack([transform(Image.open(f)) for f in files])

    def tokens(self, texts):
        return {"input_ids": self.tokenizer(texts)}

    def image(self, pixels, size=None):
        return (self._load(size) if size else self.model).encode_image(pixels, normalize=False)

    def noise(self, pixels):
        return random_pixels(pixels)

    def stored(self, name, pixels):
        return {name: pixels}

    def text(self, tokens):
        return self.model.encode_text(tokens["input_ids"], normalize=False)

    def logits(self, pixels, tokens):
        if isinstance(self.model, open_clip.CoCa):
            image, text = self.model.encode_image(pixels), self.model.encode_text(tokens["input_ids"])
            return self.model.logit_scale.exp() * image @ text.T
        return self.model.get_logits(pixels, tokens["input_ids"])[0]


def random_tokens(reference, count=4):
    """Ids for a checkpoint without tokenizer files: pads are 1 (SigLIP) and the end token is the largest id (CLIP)."""
    text = reference.model.config.text_config
    ids = torch.randint(3, text.vocab_size - 2, (count, reference.context), generator=torch.Generator().manual_seed(0))
    for row in range(count):
        ids[row, 5 + 3 * row :] = 1 if reference.siglip else text.vocab_size - 1
    return {"input_ids": ids}


def random_pixels(pixels):
    return torch.randn(2, 3, *pixels.shape[2:], generator=torch.Generator().manual_seed(0))


def load(path: Path):
    if (path / "open_clip_config.json").exists():
        return OpenClip(path)
    naflex = json.loads((path / "config.json").read_text())["model_type"] == "siglip2"
    return NaFlex(path) if naflex else Hf(path)


@torch.no_grad()
def golden(path: Path, images: Path, files, texts, sizes=(), notes=()):
    """Write golden.safetensors and golden.json beside the checkpoint; return the reference."""
    reference = load(path)
    tokens = reference.tokens(texts) if reference.tokenizer else random_tokens(reference)
    pixels = reference.pixels([images / f for f in files])
    noise = reference.noise(pixels)
    image, text, logits = reference.image(pixels), reference.text(tokens), reference.logits(pixels, tokens)
    out = {
        **reference.stored("pixels", pixels),
        "image_embeds": F.normalize(image, dim=-1),
        "image_embeds_raw": image,
        **reference.stored("noise_pixels", noise),
        "noise_image_embeds": F.normalize(reference.image(noise), dim=-1),
        **tokens,
        "text_embeds": F.normalize(text, dim=-1),
        "text_embeds_raw": text,
        "logits_per_image": logits,
        "probs": logits.sigmoid() if reference.siglip else logits.softmax(-1),
    }
    for name, size in zip(("resized", "shrunk"), sizes):
        other = reference.pixels([images / f for f in files[:2]], size)
        out |= reference.stored(f"{name}_pixels", other)
        out[f"{name}_image_embeds"] = F.normalize(reference.image(other, size), dim=-1)
    save_file({k: v.contiguous() for k, v in out.items()}, path / "golden.safetensors")
    (path / "golden.safetensors").chmod(0o644)
    meta = {
        "oracle": reference.name,
        "versions": VERSIONS,
        "images": list(files),
        "texts": texts if reference.tokenizer else None,
        "image_size": reference.image_size,
        "probs": "sigmoid" if reference.siglip else "softmax",
        **{f"{name}_image_size": size for name, size in zip(("resized", "shrunk"), sizes)},
        "notes": list(notes),
    }
    (path / "golden.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return reference
