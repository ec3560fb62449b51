"""Open what `models convert` wrote with the library it was written for, and compare it with its source.

    python check_convert.py SOURCE=CONVERTED ...

One row a pair, the largest difference of unit embeddings: `pixels` the same numbers into both image towers, `file` the
photos of this folder (but the one with an odd crop margin) through each library's own preprocessing, `text` plain sentences through each library's tokenizer,
`auto` the same through transformers' AutoModel and AutoProcessor, or open_clip's create_model_from_pretrained and
get_tokenizer.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

import open_clip
import timm
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from timm.models import vision_transformer
from torch.nn import functional as F

import images
import oracle

HERE = Path(__file__).parent
TEXTS = ["a photo of a cat", "A drawing of two dogs in the snow!", "Blue ball: 2 for $5?", "people by the river", ""]


def register(path: Path):
    """Give timm a trunk of a tiny checkpoint's own sizes under the name that its configuration has."""
    config = path / "open_clip_config.json"
    vision = json.loads(config.read_text())["model_cfg"]["vision_cfg"] if config.exists() else {}
    name = vision.get("timm_model_name")
    if not name:
        return
    with safe_open(path / "open_clip_model.safetensors", "pt") as file:
        width, _, patch, _ = file.get_slice("visual.trunk.patch_embed.proj.weight").get_shape()
        mlp = file.get_slice("visual.trunk.blocks.0.mlp.fc1.weight").get_shape()[0]
        if width >= 384:  # a real one
            return
        depth = 1 + max(int(key.split(".")[3]) for key in file.keys() if key.startswith("visual.trunk.blocks."))
    sizes = dict(
        img_size=vision["image_size"], patch_size=patch, embed_dim=width, depth=depth, num_heads=width // 64,
        mlp_ratio=mlp / width, class_token=False, global_pool="map",
    )

    def trunk(pretrained=False, **kwargs):
        return vision_transformer._create_vision_transformer("vit_base_patch16_siglip_224", False, **{**sizes, **kwargs})

    timm.models._registry._model_entrypoints[name] = trunk


def automatic(path: Path, files, texts):
    """Image and text embeddings by the shortest way that a user has."""
    if (path / "open_clip_config.json").exists():
        model, transform = open_clip.create_model_from_pretrained(f"local-dir:{path}")
        tokens = open_clip.get_tokenizer(f"local-dir:{path}")(texts)
        pixels = torch.stack([transform(Image.open(file)) for file in files])
        return model.eval().encode_image(pixels), model.encode_text(tokens)
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(path)
    photos = [Image.open(file).convert("RGB") for file in files]
    context = model.config.text_config.max_position_embeddings
    batch = processor(
        images=photos, text=texts, padding="max_length", max_length=context, truncation=True, return_tensors="pt"
    )
    pixels = batch.pop("pixel_values")
    return (
        model.get_image_features(pixel_values=pixels).pooler_output,
        model.get_text_features(**batch).pooler_output,
    )


def difference(a, b):
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).abs().max().item()


@torch.no_grad()
def compare(source: Path, converted: Path):
    names = [name for name in images.NAMES if name != "odd-margin.png" and Image.open(HERE / "images" / name).mode == "RGB"]
    files = [HERE / "images" / name for name in names]
    register(source)
    register(converted)
    a, b = oracle.load(source), oracle.load(converted)
    own = [reference.pixels(files) for reference in (a, b)]
    image = [reference.image(pixels) for reference, pixels in zip((a, b), own)]
    text = [reference.text(reference.tokens(TEXTS)) for reference in (a, b)]
    auto = automatic(converted, files, TEXTS)
    return [
        difference(image[0], b.image(own[0])), difference(*image), difference(*text),
        max(difference(image[0], auto[0]), difference(text[0], auto[1])),
    ]


def main(pairs):
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    print("| source | converted | pixels | file | text | auto |\n|---|---|---|---|---|---|")
    for pair in pairs:
        source, converted = (Path(path).resolve() for path in pair.split("="))
        cells = [f"{value:.1e}" for value in compare(source, converted)]
        print("|", " | ".join([source.name, converted.name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
