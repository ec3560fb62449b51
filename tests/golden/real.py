"""Full-size checkpoints with random weights and their golden files: `python real.py OUT [NAME ...]`.

Nothing here is committed: about 7 GB in all.
"""

import argparse
import sys
from pathlib import Path

import open_clip

import checkpoints
import parity
import vocabularies

CLIP_TEXT = {"bos_token_id": 49406, "eos_token_id": 49407}
VIT_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14,
}


def clip_preprocessor():
    return {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 224,
        "image_mean": checkpoints.OPENAI_MEAN, "image_std": checkpoints.OPENAI_STD,
    }


def hf_clip_b32(path):
    vocabularies.write_clip(path, 77, merge_count=48894)
    config = {"model_type": "clip", "text_config": CLIP_TEXT, "vision_config": {}}
    checkpoints.hf(path, config, clip_preprocessor(), seed=21)


def hf_clip_b16(path):
    vocabularies.write_clip(path, 77, merge_count=48894)
    config = {"model_type": "clip", "text_config": CLIP_TEXT, "vision_config": {"patch_size": 16}}
    checkpoints.hf(path, config, clip_preprocessor(), seed=30)


def hf_clip_l14(path):
    vocabularies.write_clip(path, 77, merge_count=48894)
    text = {**CLIP_TEXT, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    config = {"model_type": "clip", "projection_dim": 768, "text_config": text, "vision_config": VIT_L}
    checkpoints.hf(path, config, clip_preprocessor(), seed=22)


def open_clip_b32(path):
    checkpoints.open_clip_layout(path, open_clip.get_model_config("ViT-B-32"), checkpoints.preprocess(), seed=23)


def hf_siglip_b16(path):
    """The vocabulary is full-size, the tokenizer beside it small: its ids are a subset."""
    vocabularies.write_t5(path, 64, canonical=True)
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 224, "width": 224}}
    checkpoints.hf(path, {"model_type": "siglip"}, preprocessor, seed=24)


def open_clip_siglip_b16(path):
    vocabularies.write_t5(path, 64, canonical=False)
    config = checkpoints.preprocess([0.5] * 3, [0.5] * 3, resize_mode="squash")
    checkpoints.open_clip_layout(path, open_clip.get_model_config("ViT-B-16-SigLIP"), config, seed=25)


def open_clip_rn50(path):
    checkpoints.open_clip_layout(path, open_clip.get_model_config("RN50"), checkpoints.preprocess(), 26, calibrated=True)


def open_clip_mobileclip_s1(path):
    config = checkpoints.preprocess([0.0] * 3, [1.0] * 3, interpolation="bilinear")
    checkpoints.open_clip_layout(path, open_clip.get_model_config("MobileCLIP-S1"), config, 27, calibrated=True)


def open_clip_convnext_base_w(path):
    model = open_clip.get_model_config("convnext_base_w")
    checkpoints.open_clip_layout(path, model, checkpoints.preprocess(), 28)


def hf_align(path):
    vocabularies.write_wordpiece(path, 64)
    preprocessor = {
        "crop_size": {"height": 289, "width": 289}, "do_center_crop": True, "do_normalize": False, "include_top": False,
        "resample": 2, "rescale_factor": 1 / 127.5, "rescale_offset": True, "size": {"height": 346, "width": 346},
    }
    checkpoints.hf(path, {"model_type": "align"}, preprocessor, seed=29, calibrated=289)


MODELS = {
    "hf-clip-b32": hf_clip_b32,
    "hf-clip-b16": hf_clip_b16,
    "hf-clip-l14": hf_clip_l14,
    "open_clip-b32": open_clip_b32,
    "hf-siglip-b16": hf_siglip_b16,
    "open_clip-siglip-b16": open_clip_siglip_b16,
    "open_clip-rn50": open_clip_rn50,
    "open_clip-mobileclip-s1": open_clip_mobileclip_s1,
    "open_clip-convnext-base-w": open_clip_convnext_base_w,
    "hf-align": hf_align,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}; all by default")
    arguments = parser.parse_args()
    for name in arguments.names or MODELS:
        path = (arguments.out / name).resolve()
        path.mkdir(parents=True, exist_ok=True)
        MODELS[name](path)
        parity.write(path)
        print(path, file=sys.stderr)
