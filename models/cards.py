"""Writes the cards of checkpoints that open_clip knows, and of some on the Hub in transformers' layout.

    python models/cards.py [ALIAS ...]

Needs open_clip_torch 3.3.0 and timm 1.0.31. Repositories, sizes, activations and preprocessing come from open_clip's
tables and are marked as checked; what this file says itself names its source. Cards that are not listed here are
written by hand.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import open_clip
from open_clip.pretrained import _PRETRAINED as PRETRAINED
from timm.models import _registry

HERE = Path(__file__).parent
OPEN_CLIP = f"open_clip_torch {importlib.metadata.version('open_clip_torch')}"
TIMM = f"timm {importlib.metadata.version('timm')}"
CONFIGS = Path(open_clip.__file__).parent / "model_configs"

# Zero-shot top-1 on ImageNet-1k, from open_clip's docs/openclip_results.csv.
RESULTS = {
    "RN50 openai": 0.5982, "RN101 openai": 0.6228, "RN50x4 openai": 0.6627, "RN50x16 openai": 0.7072,
    "RN50x64 openai": 0.7391, "RN50 yfcc15m": 0.3275, "RN50 cc12m": 0.3647, "RN101 yfcc15m": 0.3487,
    "ViT-B-32 laion400m_e32": 0.6293, "ViT-B-16 laion400m_e32": 0.6705, "ViT-B-16-plus-240 laion400m_e31": 0.6904,
    "ViT-L-14 laion400m_e32": 0.7277, "ViT-B-32 laion2b_e16": 0.6565, "ViT-g-14 laion2b_s12b_b42k": 0.7663,
    "ViT-g-14 laion2b_s34b_b88k": 0.7847, "ViT-bigG-14 laion2b_s39b_b160k": 0.8009,
    "roberta-ViT-B-32 laion2b_s12b_b32k": 0.6171, "xlm-roberta-base-ViT-B-32 laion5b_s13b_b90k": 0.6236,
    "xlm-roberta-large-ViT-H-14 frozen_laion5b_s13b_b90k": 0.7695, "convnext_base laion400m_s13b_b51k": 0.6627,
    "convnext_base_w laion2b_s13b_b82k": 0.7078, "convnext_base_w laion2b_s13b_b82k_augreg": 0.7147,
    "convnext_base_w laion_aesthetic_s13b_b82k": 0.7099, "convnext_base_w_320 laion_aesthetic_s13b_b82k": 0.7167,
    "convnext_base_w_320 laion_aesthetic_s13b_b82k_augreg": 0.7128,
    "convnext_large_d laion2b_s26b_b102k_augreg": 0.7591, "convnext_large_d_320 laion2b_s29b_b131k_ft": 0.7660,
    "convnext_large_d_320 laion2b_s29b_b131k_ft_soup": 0.7685, "convnext_xxlarge laion2b_s34b_b82k_augreg": 0.7907,
    "convnext_xxlarge laion2b_s34b_b82k_augreg_rewind": 0.7931,
    "convnext_xxlarge laion2b_s34b_b82k_augreg_soup": 0.7947, "coca_ViT-B-32 laion2b_s13b_b90k": 0.6331,
    "coca_ViT-L-14 laion2b_s13b_b90k": 0.7561, "coca_ViT-L-14 mscoco_finetuned_laion2b_s13b_b90k": 0.7204,
    "coca_ViT-B-32 mscoco_finetuned_laion2b_s13b_b90k": 0.0091, "ViT-B-32-256 datacomp_s34b_b86k": 0.7281,
    "ViT-B-32 datacomp_m_s128m_b4k": 0.2972, "ViT-B-32 datacomp_s_s13m_b4k": 0.0392,
    "ViT-B-16 datacomp_l_s1b_b8k": 0.6310, "ViT-B-32 commonpool_m_clip_s128m_b4k": 0.2725,
    "ViT-B-32 commonpool_m_image_s128m_b4k": 0.2678, "ViT-B-32 commonpool_m_text_s128m_b4k": 0.2548,
    "ViT-B-32 commonpool_m_laion_s128m_b4k": 0.2304, "ViT-B-32 commonpool_m_basic_s128m_b4k": 0.2255,
    "ViT-B-32 commonpool_m_s128m_b4k": 0.1755, "ViT-B-32 commonpool_s_clip_s13m_b4k": 0.0505,
    "ViT-B-32 commonpool_s_text_s13m_b4k": 0.0460, "ViT-B-32 commonpool_s_image_s13m_b4k": 0.0392,
    "ViT-B-32 commonpool_s_basic_s13m_b4k": 0.0377, "ViT-B-32 commonpool_s_laion_s13m_b4k": 0.0305,
    "ViT-B-32 commonpool_s_s13m_b4k": 0.0270, "ViT-B-16 commonpool_l_clip_s1b_b8k": 0.5777,
    "ViT-B-16 commonpool_l_laion_s1b_b8k": 0.5526, "ViT-B-16 commonpool_l_image_s1b_b8k": 0.5719,
    "ViT-B-16 commonpool_l_text_s1b_b8k": 0.5605, "ViT-B-16 commonpool_l_basic_s1b_b8k": 0.5155,
    "ViT-B-16 commonpool_l_s1b_b8k": 0.4593, "ViT-L-14 commonpool_xl_clip_s13b_b90k": 0.7637,
    "ViT-L-14 commonpool_xl_laion_s13b_b90k": 0.7545, "ViT-L-14 commonpool_xl_s13b_b90k": 0.7229,
    "ViT-H-14 dfn5b": 0.8344, "ViT-H-14-378 dfn5b": 0.8437, "ViT-B-32 metaclip_400m": 0.6558,
    "ViT-B-16 metaclip_400m": 0.7080, "ViT-L-14 metaclip_400m": 0.7620, "ViT-H-14 metaclip_fullcc": 0.8051,
    "EVA01-g-14 laion400m_s11b_b41k": 0.7852, "EVA01-g-14-plus merged2b_s11b_b114k": 0.7933,
    "EVA02-B-16 merged2b_s8b_b131k": 0.7472, "EVA02-L-14 merged2b_s4b_b131k": 0.7977,
    "EVA02-L-14-336 merged2b_s6b_b61k": 0.8039, "EVA02-E-14 laion2b_s4b_b115k": 0.8196,
    "EVA02-E-14-plus laion2b_s9b_b144k": 0.8201, "ViT-L-14-CLIPA datacomp1b": 0.7957,
    "ViT-L-14-CLIPA-336 datacomp1b": 0.8026, "ViT-H-14-CLIPA datacomp1b": 0.8152,
    "ViT-H-14-CLIPA-336 datacomp1b": 0.8180, "ViT-H-14-CLIPA-336 laion2b": 0.7910,
    "ViT-bigG-14-CLIPA datacomp1b": 0.8270, "ViT-bigG-14-CLIPA-336 datacomp1b": 0.8309,
    "ViT-B-16-SigLIP-256 webli": 0.7653, "ViT-B-16-SigLIP-512 webli": 0.7914,
    "ViT-B-16-SigLIP-i18n-256 webli": 0.7513, "ViT-L-16-SigLIP-256 webli": 0.8045,
    "ViT-SO400M-14-SigLIP webli": 0.8203,
}

# Other published scores: value, source, checked.
MOBILECLIP = "https://github.com/apple/ml-mobileclip/blob/main/README.md"
PE_PAPER = "Bolya et al. 2025, arXiv 2504.13181"
SIGLIP2 = "big_vision, configs/proj/image_text/README_siglip2.md"
TINYCLIP = "https://github.com/microsoft/Cream/tree/main/TinyCLIP"
SCORES = {
    "metaclip-bigg14": (0.821, "https://github.com/facebookresearch/MetaCLIP/blob/main/README.md", True),
    "metaclip2-h14": (0.813, "Chuang et al. 2025, arXiv 2507.22062", False),
    "mobileclip-s1": (0.726, MOBILECLIP, True), "mobileclip-s2": (0.744, MOBILECLIP, True),
    "mobileclip-b": (0.768, MOBILECLIP, True), "mobileclip-b-lt": (0.772, MOBILECLIP, True),
    "mobileclip2-s0": (0.715, "model page of apple/MobileCLIP2-B", True),
    "mobileclip2-s2": (0.772, "model page of apple/MobileCLIP2-B", True),
    "mobileclip2-b": (0.794, MOBILECLIP, False), "mobileclip2-s3": (0.807, MOBILECLIP, False),
    "mobileclip2-l14": (0.819, MOBILECLIP, False), "mobileclip2-s4": (0.819, MOBILECLIP, False),
    "pe-core-t16-384": (0.621, PE_PAPER, False), "pe-core-s16-384": (0.727, PE_PAPER, False),
    "pe-core-b16": (0.784, PE_PAPER, False), "pe-core-l14-336": (0.835, PE_PAPER, False),
    "pe-core-g14-448": (0.854, PE_PAPER, False),
    "siglip2-b16-256": (0.791, SIGLIP2, True), "siglip2-b16-384": (0.806, SIGLIP2, True),
    "siglip2-b16-512": (0.812, SIGLIP2, True), "siglip2-l16-384": (0.831, SIGLIP2, True),
    "siglip2-l16-512": (0.835, SIGLIP2, True), "siglip2-so400m14-224": (0.832, SIGLIP2, True),
    "siglip2-so400m14-384": (0.841, SIGLIP2, True), "siglip2-so400m-256": (0.834, SIGLIP2, True),
    "siglip2-so400m-512": (0.843, SIGLIP2, True), "siglip2-gopt-256": (0.845, SIGLIP2, True),
    "siglip2-gopt-384": (0.850, SIGLIP2, True), "siglip2-b16-naflex": (0.785, SIGLIP2, True),
    "siglip2-so400m-naflex": (0.835, SIGLIP2, True),
    "tinyclip-8m16": (0.411, TINYCLIP, False), "tinyclip-39m16": (0.635, TINYCLIP, False),
    "tinyclip-40m32": (0.598, TINYCLIP, False), "tinyclip-61m32": (0.624, TINYCLIP, False),
}

OPENAI = ("MIT", "https://github.com/openai/CLIP/blob/main/LICENSE", True)
META = ("CC-BY-NC-4.0", "https://github.com/facebookresearch/MetaCLIP/blob/main/LICENSE", True)
NAMES = {
    "mit": "MIT", "apache-2.0": "Apache-2.0", "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "apple-ascl": "Apple sample code licence", "apple-amlr": "Apple machine learning research licence",
}


def page(value):
    """A licence that the model's page names; pages could not be compared when the card was written."""
    return lambda repository: (value, f"model page of {repository}", False)


def timm(name):
    """The licence that timm gives for the same weights."""
    return (NAMES[_registry._model_pretrained_cfgs[name].license], f"{TIMM}, {name}", True)


def stored(value, repository):
    """A licence read on a stored copy of a model's page."""
    return (value, f"model page of {repository}", True)


MIT, APACHE = page("MIT"), page("Apache-2.0")
ASCL = stored("Apple sample code licence", "apple/MobileCLIP-S2-OpenCLIP")
TO_SAFETENSORS = "This repository may hold only a pickle, which is not read: `clip-cli models convert` makes safetensors of it."

# alias, title, model, tag, licence, note, other repositories with the same weights
CLIP = [
    *((f"openai-{name.lower()}", f"OpenAI CLIP ResNet {name}", name, "openai", OPENAI)
      for name in ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"]),
    ("yfcc15m-rn50", "YFCC-15M CLIP ResNet RN50", "RN50", "yfcc15m", timm("resnet50_clip.yfcc15m")),
    ("cc12m-rn50", "CC-12M CLIP ResNet RN50", "RN50", "cc12m", timm("resnet50_clip.cc12m")),
    ("yfcc15m-rn101", "YFCC-15M CLIP ResNet RN101", "RN101", "yfcc15m", timm("resnet101_clip.yfcc15m")),
    ("laion400m-b32", "LAION-400M CLIP ViT-B/32", "ViT-B-32", "laion400m_e32",
     timm("vit_base_patch32_clip_224.laion400m_e32")),
    ("laion400m-b16", "LAION-400M CLIP ViT-B/16", "ViT-B-16", "laion400m_e32",
     timm("vit_base_patch16_clip_224.laion400m_e32")),
    ("laion400m-b16-240", "LAION-400M CLIP ViT-B/16+ at 240 pixels, 31 epochs", "ViT-B-16-plus-240", "laion400m_e31",
     timm("vit_base_patch16_plus_clip_240.laion400m_e32")),
    ("laion400m-l14", "LAION-400M CLIP ViT-L/14", "ViT-L-14", "laion400m_e32",
     timm("vit_large_patch14_clip_224.laion400m_e32")),
    ("laion2b-e16-b32", "LAION-2B CLIP ViT-B/32, 16 epochs", "ViT-B-32", "laion2b_e16", MIT),
    ("laion2b-s12b-g14", "LAION-2B CLIP ViT-g/14, 12 billion samples", "ViT-g-14", "laion2b_s12b_b42k", MIT),
    ("laion2b-g14", "LAION-2B CLIP ViT-g/14, 34 billion samples", "ViT-g-14", "laion2b_s34b_b88k", MIT),
    ("laion2b-bigg14", "LAION-2B CLIP ViT-bigG/14", "ViT-bigG-14", "laion2b_s39b_b160k", MIT),
    ("laion2b-roberta-b32", "LAION-2B CLIP ViT-B/32 with RoBERTa", "roberta-ViT-B-32", "laion2b_s12b_b32k", MIT),
    ("laion5b-xlmr-b32", "LAION-5B CLIP ViT-B/32 with XLM-RoBERTa, multilingual", "xlm-roberta-base-ViT-B-32",
     "laion5b_s13b_b90k", MIT),
    ("laion5b-xlmr-h14", "LAION-5B CLIP ViT-H/14 with XLM-RoBERTa Large, multilingual", "xlm-roberta-large-ViT-H-14",
     "frozen_laion5b_s13b_b90k", MIT),
    ("laion400m-convnext-b", "LAION-400M CLIP ConvNeXt-Base", "convnext_base", "laion400m_s13b_b51k", MIT),
    ("laion2b-convnext-bw", "LAION-2B CLIP ConvNeXt-Base-W", "convnext_base_w", "laion2b_s13b_b82k", MIT),
    ("laion2b-convnext-bw-augreg", "LAION-2B CLIP ConvNeXt-Base-W, more augmentation", "convnext_base_w",
     "laion2b_s13b_b82k_augreg", MIT),
    ("laiona-convnext-bw", "LAION-Aesthetic CLIP ConvNeXt-Base-W", "convnext_base_w", "laion_aesthetic_s13b_b82k", MIT),
    ("laiona-convnext-bw-320", "LAION-Aesthetic CLIP ConvNeXt-Base-W at 320 pixels", "convnext_base_w_320",
     "laion_aesthetic_s13b_b82k", MIT),
    ("laiona-convnext-bw-320-augreg", "LAION-Aesthetic CLIP ConvNeXt-Base-W at 320 pixels, more augmentation",
     "convnext_base_w_320", "laion_aesthetic_s13b_b82k_augreg", MIT),
    ("laion2b-convnext-ld", "LAION-2B CLIP ConvNeXt-Large-D", "convnext_large_d", "laion2b_s26b_b102k_augreg", MIT),
    ("laion2b-convnext-ld-320", "LAION-2B CLIP ConvNeXt-Large-D at 320 pixels", "convnext_large_d_320",
     "laion2b_s29b_b131k_ft", MIT),
    ("laion2b-convnext-ld-320-soup", "LAION-2B CLIP ConvNeXt-Large-D at 320 pixels, averaged", "convnext_large_d_320",
     "laion2b_s29b_b131k_ft_soup", MIT),
    ("laion2b-convnext-xxl", "LAION-2B CLIP ConvNeXt-XXLarge", "convnext_xxlarge", "laion2b_s34b_b82k_augreg", MIT),
    ("laion2b-convnext-xxl-rewind", "LAION-2B CLIP ConvNeXt-XXLarge, last tenth repeated", "convnext_xxlarge",
     "laion2b_s34b_b82k_augreg_rewind", MIT),
    ("laion2b-convnext-xxl-soup", "LAION-2B CLIP ConvNeXt-XXLarge, averaged", "convnext_xxlarge",
     "laion2b_s34b_b82k_augreg_soup", MIT),
    ("coca-b32", "LAION-2B CoCa ViT-B/32", "coca_ViT-B-32", "laion2b_s13b_b90k", MIT),
    ("coca-l14", "LAION-2B CoCa ViT-L/14", "coca_ViT-L-14", "laion2b_s13b_b90k", MIT),
    ("coca-b32-coco", "LAION-2B CoCa ViT-B/32, made to caption COCO", "coca_ViT-B-32",
     "mscoco_finetuned_laion2b_s13b_b90k", MIT,
     "It was made to write captions: as a classifier it is published to be no better than chance."),
    ("coca-l14-coco", "LAION-2B CoCa ViT-L/14, made to caption COCO", "coca_ViT-L-14",
     "mscoco_finetuned_laion2b_s13b_b90k", MIT),
    ("datacomp-b32-256", "DataComp-XL CLIP ViT-B/32 at 256 pixels", "ViT-B-32-256", "datacomp_s34b_b86k", MIT),
    ("datacomp-m-b32", "DataComp-M CLIP ViT-B/32", "ViT-B-32", "datacomp_m_s128m_b4k", MIT),
    ("datacomp-s-b32", "DataComp-S CLIP ViT-B/32", "ViT-B-32", "datacomp_s_s13m_b4k", MIT),
    ("datacomp-l-b16", "DataComp-L CLIP ViT-B/16", "ViT-B-16", "datacomp_l_s1b_b8k", MIT),
    *((f"commonpool-{size}{f'-{kind}' if kind else ''}-{short}",
       f"CommonPool-{size.upper()} CLIP {title}{f', filtered by {kind}' if kind else ''}", model,
       f"commonpool_{size}{f'_{kind}' if kind else ''}_{samples}", MIT)
      for size, short, title, model, samples, kinds in [
          ("s", "b32", "ViT-B/32", "ViT-B-32", "s13m_b4k", ["clip", "laion", "image", "text", "basic", ""]),
          ("m", "b32", "ViT-B/32", "ViT-B-32", "s128m_b4k", ["clip", "laion", "image", "text", "basic", ""]),
          ("l", "b16", "ViT-B/16", "ViT-B-16", "s1b_b8k", ["clip", "laion", "image", "text", "basic", ""]),
          ("xl", "l14", "ViT-L/14", "ViT-L-14", "s13b_b90k", ["clip", "laion", ""])]
      for kind in kinds),
    ("dfn2b-l14-s39b", "DFN-2B CLIP ViT-L/14, 39 billion samples", "ViT-L-14", "dfn2b_s39b",
     timm("vit_large_patch14_clip_224.dfn2b_s39b"), TO_SAFETENSORS),
    ("dfn5b-h14", "DFN-5B CLIP ViT-H/14", "ViT-H-14", "dfn5b", timm("vit_huge_patch14_clip_224.dfn5b"),
     TO_SAFETENSORS),
    ("dfn5b-h14-378", "DFN-5B CLIP ViT-H/14 at 378 pixels", "ViT-H-14-378", "dfn5b",
     timm("vit_huge_patch14_clip_378.dfn5b"), TO_SAFETENSORS),
    ("metaclip-400m-b32", "MetaCLIP ViT-B/32, 400 million pairs", "ViT-B-32", "metaclip_400m", META, None,
     ["facebook/metaclip-b32-400m"]),
    ("metaclip-400m-b16", "MetaCLIP ViT-B/16, 400 million pairs", "ViT-B-16", "metaclip_400m", META, None,
     ["facebook/metaclip-b16-400m"]),
    ("metaclip-400m-l14", "MetaCLIP ViT-L/14, 400 million pairs", "ViT-L-14", "metaclip_400m", META, None,
     ["facebook/metaclip-l14-400m"]),
    ("metaclip-h14", "MetaCLIP ViT-H/14, 2.5 billion pairs", "ViT-H-14", "metaclip_fullcc", META, None,
     ["facebook/metaclip-h14-fullcc2.5b"]),
    ("metaclip-bigg14", "MetaCLIP ViT-bigG/14, 2.5 billion pairs", "ViT-bigG-14", "metaclip_fullcc", META),
    ("metaclip-altogether-h14", "MetaCLIP 1.2 ViT-H/14, synthetic captions", "ViT-H-14", "metaclip_altogether",
     timm("vit_huge_patch14_clip_224.metaclip_altogether")),
    ("metaclip2-h14", "MetaCLIP 2 ViT-H/14, multilingual", "ViT-H-14-worldwide", "metaclip2_worldwide",
     timm("vit_huge_patch14_clip_224.metaclip2_worldwide"), None, ["facebook/metaclip-2-worldwide-huge-quickgelu"]),
    ("metaclip2-h14-378", "MetaCLIP 2 ViT-H/14 at 378 pixels, multilingual", "ViT-H-14-worldwide-378",
     "metaclip2_worldwide", timm("vit_huge_patch14_clip_378.metaclip2_worldwide")),
    ("metaclip2-bigg14", "MetaCLIP 2 ViT-bigG/14, multilingual", "ViT-bigG-14-worldwide", "metaclip2_worldwide",
     timm("vit_gigantic_patch14_clip_224.metaclip2_worldwide")),
    ("metaclip2-bigg14-378", "MetaCLIP 2 ViT-bigG/14 at 378 pixels, multilingual", "ViT-bigG-14-worldwide-378",
     "metaclip2_worldwide", timm("vit_gigantic_patch14_clip_378.metaclip2_worldwide")),
    ("eva01-g14", "EVA-CLIP g/14, LAION-400M", "EVA01-g-14", "laion400m_s11b_b41k",
     timm("eva_giant_patch14_clip_224.laion400m")),
    ("eva01-g14-plus", "EVA-CLIP g/14+, Merged-2B", "EVA01-g-14-plus", "merged2b_s11b_b114k",
     timm("eva_giant_patch14_clip_224.merged2b")),
    ("eva02-b16", "EVA-02 CLIP B/16, Merged-2B", "EVA02-B-16", "merged2b_s8b_b131k",
     timm("eva02_base_patch16_clip_224.merged2b")),
    ("eva02-l14", "EVA-02 CLIP L/14, Merged-2B", "EVA02-L-14", "merged2b_s4b_b131k",
     timm("eva02_large_patch14_clip_224.merged2b")),
    ("eva02-l14-336", "EVA-02 CLIP L/14 at 336 pixels, Merged-2B", "EVA02-L-14-336", "merged2b_s6b_b61k",
     timm("eva02_large_patch14_clip_336.merged2b")),
    ("eva02-e14", "EVA-02 CLIP E/14, LAION-2B", "EVA02-E-14", "laion2b_s4b_b115k",
     timm("eva02_enormous_patch14_clip_224.laion2b")),
    ("eva02-e14-plus", "EVA-02 CLIP E/14+, LAION-2B", "EVA02-E-14-plus", "laion2b_s9b_b144k",
     timm("eva02_enormous_patch14_clip_224.laion2b_plus")),
    ("clipa-l14", "CLIPA-v2 ViT-L/14, DataComp-1B", "ViT-L-14-CLIPA", "datacomp1b", APACHE),
    ("clipa-l14-336", "CLIPA-v2 ViT-L/14 at 336 pixels, DataComp-1B", "ViT-L-14-CLIPA-336", "datacomp1b", APACHE),
    ("clipa-h14", "CLIPA-v2 ViT-H/14, DataComp-1B", "ViT-H-14-CLIPA", "datacomp1b", APACHE),
    ("clipa-h14-336", "CLIPA-v2 ViT-H/14 at 336 pixels, DataComp-1B", "ViT-H-14-CLIPA-336", "datacomp1b", APACHE),
    ("clipa-laion2b-h14-336", "CLIPA-v2 ViT-H/14 at 336 pixels, LAION-2B", "ViT-H-14-CLIPA-336", "laion2b", APACHE),
    ("clipa-bigg14", "CLIPA-v2 ViT-bigG/14, DataComp-1B", "ViT-bigG-14-CLIPA", "datacomp1b", APACHE),
    ("clipa-bigg14-336", "CLIPA-v2 ViT-bigG/14 at 336 pixels, DataComp-1B", "ViT-bigG-14-CLIPA-336", "datacomp1b",
     APACHE),
    ("mobileclip-s1", "MobileCLIP S1", "MobileCLIP-S1", "datacompdr", ASCL),
    ("mobileclip-s2", "MobileCLIP S2", "MobileCLIP-S2", "datacompdr", ASCL),
    ("mobileclip-b", "MobileCLIP B", "MobileCLIP-B", "datacompdr", ASCL),
    ("mobileclip-b-lt", "MobileCLIP B, trained for longer", "MobileCLIP-B", "datacompdr_lt", ASCL),
    ("mobileclip2-s0", "MobileCLIP 2 S0", "MobileCLIP2-S0", "dfndr2b", timm("fastvit_mci0.apple_mclip2_dfndr2b")),
    ("mobileclip2-s2", "MobileCLIP 2 S2", "MobileCLIP2-S2", "dfndr2b", timm("fastvit_mci2.apple_mclip2_dfndr2b")),
    ("mobileclip2-b", "MobileCLIP 2 B", "MobileCLIP2-B", "dfndr2b", timm("vit_base_mci_224.apple_mclip2_dfndr2b")),
    ("mobileclip2-s3", "MobileCLIP 2 S3", "MobileCLIP2-S3", "dfndr2b", timm("fastvit_mci3.apple_mclip2_dfndr2b")),
    ("mobileclip2-l14", "MobileCLIP 2 L/14", "MobileCLIP2-L-14", "dfndr2b",
     timm("vit_large_patch14_clip_224.apple_mclip2_dfndr2b")),
    ("mobileclip2-s4", "MobileCLIP 2 S4", "MobileCLIP2-S4", "dfndr2b", timm("fastvit_mci4.apple_mclip2_dfndr2b")),
    ("pe-core-t16-384", "Perception Encoder Core T/16 at 384 pixels", "PE-Core-T-16-384", "meta",
     timm("vit_pe_core_tiny_patch16_384.fb")),
    ("pe-core-s16-384", "Perception Encoder Core S/16 at 384 pixels", "PE-Core-S-16-384", "meta",
     timm("vit_pe_core_small_patch16_384.fb")),
    ("pe-core-b16", "Perception Encoder Core B/16", "PE-Core-B-16", "meta", timm("vit_pe_core_base_patch16_224.fb")),
    ("pe-core-l14-336", "Perception Encoder Core L/14 at 336 pixels", "PE-Core-L-14-336", "meta",
     timm("vit_pe_core_large_patch14_336.fb")),
    ("pe-core-g14-448", "Perception Encoder Core G/14 at 448 pixels", "PE-Core-bigG-14-448", "meta",
     timm("vit_pe_core_gigantic_patch14_448.fb")),
]

# alias, title, Google's repository, open_clip's model with the same weights, licence by timm
SIGLIP = [
    ("siglip-b16-256", "SigLIP ViT-B/16 at 256 pixels", "google/siglip-base-patch16-256", "ViT-B-16-SigLIP-256",
     "vit_base_patch16_siglip_256.webli"),
    ("siglip-b16-512", "SigLIP ViT-B/16 at 512 pixels", "google/siglip-base-patch16-512", "ViT-B-16-SigLIP-512",
     "vit_base_patch16_siglip_512.webli"),
    ("siglip-i18n-b16-256", "SigLIP ViT-B/16 at 256 pixels, multilingual", "google/siglip-base-patch16-256-multilingual",
     "ViT-B-16-SigLIP-i18n-256", "vit_base_patch16_siglip_256.webli_i18n"),
    ("siglip-l16-256", "SigLIP ViT-L/16 at 256 pixels", "google/siglip-large-patch16-256", "ViT-L-16-SigLIP-256",
     "vit_large_patch16_siglip_256.webli"),
    ("siglip-so400m-224", "SigLIP So400m/14", "google/siglip-so400m-patch14-224", "ViT-SO400M-14-SigLIP",
     "vit_so400m_patch14_siglip_224.webli"),
    ("siglip-i18n-so400m-256", "SigLIP So400m/16 at 256 pixels, multilingual", "google/siglip-so400m-patch16-256-i18n",
     "ViT-SO400M-16-SigLIP-i18n-256", "vit_so400m_patch16_siglip_256.webli_i18n"),
    ("siglip2-b16-256", "SigLIP 2 ViT-B/16 at 256 pixels", "google/siglip2-base-patch16-256", "ViT-B-16-SigLIP2-256",
     "vit_base_patch16_siglip_256.v2_webli"),
    ("siglip2-b16-384", "SigLIP 2 ViT-B/16 at 384 pixels", "google/siglip2-base-patch16-384", "ViT-B-16-SigLIP2-384",
     "vit_base_patch16_siglip_384.v2_webli"),
    ("siglip2-b16-512", "SigLIP 2 ViT-B/16 at 512 pixels", "google/siglip2-base-patch16-512", "ViT-B-16-SigLIP2-512",
     "vit_base_patch16_siglip_512.v2_webli"),
    ("siglip2-l16-384", "SigLIP 2 ViT-L/16 at 384 pixels", "google/siglip2-large-patch16-384", "ViT-L-16-SigLIP2-384",
     "vit_large_patch16_siglip_384.v2_webli"),
    ("siglip2-l16-512", "SigLIP 2 ViT-L/16 at 512 pixels", "google/siglip2-large-patch16-512", "ViT-L-16-SigLIP2-512",
     "vit_large_patch16_siglip_512.v2_webli"),
    ("siglip2-so400m14-224", "SigLIP 2 So400m/14", "google/siglip2-so400m-patch14-224", "ViT-SO400M-14-SigLIP2",
     "vit_so400m_patch14_siglip_224.v2_webli"),
    ("siglip2-so400m14-384", "SigLIP 2 So400m/14 at 384 pixels", "google/siglip2-so400m-patch14-384", None,
     "vit_so400m_patch14_siglip_378.v2_webli"),
    ("siglip2-so400m-256", "SigLIP 2 So400m/16 at 256 pixels", "google/siglip2-so400m-patch16-256",
     "ViT-SO400M-16-SigLIP2-256", "vit_so400m_patch16_siglip_256.v2_webli"),
    ("siglip2-so400m-512", "SigLIP 2 So400m/16 at 512 pixels", "google/siglip2-so400m-patch16-512",
     "ViT-SO400M-16-SigLIP2-512", "vit_so400m_patch16_siglip_512.v2_webli"),
    ("siglip2-gopt-256", "SigLIP 2 g-opt/16 at 256 pixels", "google/siglip2-giant-opt-patch16-256",
     "ViT-gopt-16-SigLIP2-256", "vit_giantopt_patch16_siglip_256.v2_webli"),
    ("siglip2-gopt-384", "SigLIP 2 g-opt/16 at 384 pixels", "google/siglip2-giant-opt-patch16-384",
     "ViT-gopt-16-SigLIP2-384", "vit_giantopt_patch16_siglip_384.v2_webli"),
    ("siglip2-b16-naflex", "SigLIP 2 NaFlex B/16, any shape", "google/siglip2-base-patch16-naflex", None,
     "naflexvit_base_patch16_siglip.v2_webli"),
    ("siglip2-so400m-naflex", "SigLIP 2 NaFlex So400m/16, any shape", "google/siglip2-so400m-patch16-naflex", None,
     "naflexvit_so400m_patch16_siglip.v2_webli"),
]

CLIP_PREPROCESSING = "shortest side to {0}, bicubic, centre crop; mean 0.4815 0.4578 0.4082, deviation 0.2686 0.2613 0.2758"
SQUASHED_CLIP = "squashed to {0} x {0}, bicubic; mean 0.4815 0.4578 0.4082, deviation 0.2686 0.2613 0.2758"
AS_CONFIGURED = "as its configuration says"
PICKLE = "This repository may hold only a pickle on its main branch: `clip-cli models pull` says where safetensors are."

# alias, title, repository, family, layout, activation, image size, context, preprocessing, licence, note.
# Nothing of this was compared with the Hub when it was written.
OTHERS = [
    *((f"chinese-clip-{short}", f"Chinese-CLIP {title}", f"OFA-Sys/chinese-clip-vit-{name}", "chinese_clip",
       "transformers", "quick_gelu (image), gelu (text)", size, 52, SQUASHED_CLIP,
       ("MIT", "https://github.com/OFA-Sys/Chinese-CLIP/blob/master/MIT-LICENSE.txt", False), PICKLE)
      for short, title, name, size in [
          ("b16", "ViT-B/16", "base-patch16", 224), ("l14", "ViT-L/14", "large-patch14", 224),
          ("l14-336", "ViT-L/14 at 336 pixels", "large-patch14-336px", 336), ("h14", "ViT-H/14", "huge-patch14", 224)]),
    ("altclip", "AltCLIP, ViT-L/14 with XLM-RoBERTa, Chinese and English", "BAAI/AltCLIP", "altclip", "transformers",
     "quick_gelu (image), gelu (text)", 224, 77, CLIP_PREPROCESSING, page("CreativeML OpenRAIL-M"), PICKLE),
    ("altclip-m9", "AltCLIP, ViT-L/14 with XLM-RoBERTa, nine languages", "BAAI/AltCLIP-m9", "altclip", "transformers",
     "quick_gelu (image), gelu (text)", 224, 77, CLIP_PREPROCESSING, page("CreativeML OpenRAIL-M"), PICKLE),
    ("align", "ALIGN, EfficientNet-B7 with BERT (Kakao Brain)", "kakaobrain/align-base", "align", "transformers",
     "swish (image), gelu (text)", 289, 64, "as its preprocessor_config.json says", page("unknown"), PICKLE),
    *((f"tinyclip-{short}", f"TinyCLIP ViT-{image}, text {text}, {data}",
       f"wkcn/TinyCLIP-ViT-{image.replace('/', '-')}-Text-{text}-{data.replace('-', '')}", "clip", "transformers",
       AS_CONFIGURED, 224, 77, CLIP_PREPROCESSING,
       (timm(licence) if licence else MIT), None)
      for short, image, text, data, licence in [
          ("8m16", "8M/16", "3M", "YFCC15M", "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"),
          ("39m16", "39M/16", "19M", "YFCC15M", "vit_medium_patch16_clip_224.tinyclip_yfcc15m"),
          ("40m32", "40M/32", "19M", "LAION400M", "vit_medium_patch32_clip_224.tinyclip_laion400m"),
          ("61m32", "61M/32", "29M", "LAION400M", "vit_betwixt_patch32_clip_224.tinyclip_laion400m")]),
    ("fashion-clip", "FashionCLIP 2.0, ViT-B/32", "patrickjohncyh/fashion-clip", "clip", "transformers", AS_CONFIGURED, 224,
     77, CLIP_PREPROCESSING, MIT, None),
    ("marqo-fashion-clip", "Marqo-FashionCLIP, ViT-B/16", "Marqo/marqo-fashionCLIP", "open_clip", "open_clip", AS_CONFIGURED,
     224, 77, CLIP_PREPROCESSING, APACHE, None),
    ("marqo-fashion-siglip", "Marqo-FashionSigLIP, ViT-B/16", "Marqo/marqo-fashionSigLIP", "open_clip-siglip",
     "open_clip", "gelu", 224, 64, "squashed to {0} x {0}, bicubic; mean 0.5, deviation 0.5", APACHE, None),
    ("biomedclip", "BiomedCLIP, ViT-B/16 with PubMedBERT", "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
     "custom-text", "open_clip", "gelu", 224, 256, CLIP_PREPROCESSING, MIT, PICKLE),
    ("pubmed-clip", "PubMedCLIP, ViT-B/32", "flaviagiammarino/pubmed-clip-vit-base-patch32", "clip", "transformers",
     "quick_gelu", 224, 77, CLIP_PREPROCESSING, MIT, PICKLE),
    ("plip", "PLIP, ViT-B/32, pathology", "vinid/plip", "clip", "transformers", "quick_gelu", 224, 77,
     CLIP_PREPROCESSING, page("unknown"), PICKLE),
    ("quiltnet-b32", "QuiltNet ViT-B/32, histopathology", "wisdomik/QuiltNet-B-32", "open_clip", "open_clip",
     AS_CONFIGURED, 224, 77, CLIP_PREPROCESSING, MIT, PICKLE),
    ("quiltnet-b16", "QuiltNet ViT-B/16, histopathology", "wisdomik/QuiltNet-B-16", "open_clip", "open_clip",
     AS_CONFIGURED, 224, 77, CLIP_PREPROCESSING, MIT, PICKLE),
    ("streetclip", "StreetCLIP, ViT-L/14 at 336 pixels, where a photo was taken", "geolocal/StreetCLIP", "clip",
     "transformers", "quick_gelu", 336, 77, CLIP_PREPROCESSING, page("CC-BY-NC-4.0"), PICKLE),
]


def text(value):
    return json.dumps(value, ensure_ascii=False)


def fact(value, source, checked):
    return f"{{ value = {text(value)}, source = {text(source)}, checked = {str(checked).lower()} }}"


def card(alias, title, facts, also=(), note=None, score=None):
    lines = [f"alias = {text(alias)}", f"title = {text(title)}"]
    if also:
        lines.append(f"also = {text(list(also))}")
    if note:
        lines.append(f"note = {text(note)}")
    lines.append("")
    lines += [f"{name} = {fact(*value)}" for name, value in facts.items()]
    if score:
        value, source, checked = score
        lines += ["", "[[accuracy]]", 'set = "ImageNet-1k"', 'metric = "zero-shot top-1"', f"value = {value:.4f}",
                  f"source = {text(source)}", f"checked = {str(checked).lower()}"]
    return "\n".join(lines) + "\n"


def preprocessing(cfg, size):
    form = {"shortest": "shortest side to {0}, {1}, centre crop", "squash": "squashed to {0} x {0}, {1}"}
    three = lambda numbers: " ".join(f"{x:.4f}" for x in numbers) if len(set(numbers)) > 1 else f"{numbers[0]:g}"
    resize = form[cfg["resize_mode"]].format(size, cfg["interpolation"])
    return f"{resize}; mean {three(cfg['mean'])}, deviation {three(cfg['std'])}"


def family(config):
    """The family that claims open_clip's layout of a model."""
    vision, trunk = config["vision_cfg"], config["vision_cfg"].get("timm_model_name", "")
    if "hf_model_name" in config["text_cfg"]:
        return "custom-text"
    if trunk.startswith(("fastvit_", "convnext_")) or isinstance(vision.get("layers"), list):
        return "open_clip-conv"
    return "open_clip-timm" if trunk else "open_clip"


def from_open_clip(alias, title, model, tag, licence, note=None, also=()):
    cfg, config = PRETRAINED[model][tag], json.loads((CONFIGS / f"{model}.json").read_text())
    repository = cfg["hf_hub"].strip("/")
    tables, sizes = f"{OPEN_CLIP}, pretrained.py", f"{OPEN_CLIP}, model_configs/{model}.json"
    # A timm trunk has its own activation, whatever the flag says.
    trunk, plain = "timm_model_name" in config["vision_cfg"], not cfg.get("quick_gelu", config.get("quick_gelu", False))
    activation = "gelu" if plain else "gelu (image), quick_gelu (text)" if trunk else "quick_gelu"
    context = config["text_cfg"].get("context_length", 77)
    size = config["vision_cfg"]["image_size"]
    facts = {
        "repository": (repository, tables, True),
        "family": (family(config), sizes, True),
        "layout": ("open_clip", tables, True),
        "activation": (activation, tables, True),
        "image_size": (size, sizes, True),
        "context": (context, sizes, True),
        "preprocessing": (preprocessing(cfg, size), tables, True),
        "license": licence(repository) if callable(licence) else licence,
    }
    score = SCORES.get(alias)
    if score is None and f"{model} {tag}" in RESULTS:
        score = (RESULTS[f"{model} {tag}"], "open_clip docs/openclip_results.csv", True)
    return card(alias, title, facts, also, note, score)


def from_google(alias, title, repository, model, licence):
    source = f"model page of {repository}"
    naflex, second = repository.endswith("naflex"), "siglip2" in repository
    listed = (SIGLIP2, True) if second else (source, False)
    size = int(repository.split("-")[-1]) if repository.split("-")[-1].isdigit() else 256
    configured = (f"{OPEN_CLIP}, model_configs/{model}.json", True) if model else listed
    filter = "bilinear" if second else "bicubic"
    squashed = f"squashed to {size} x {size}, {filter}; mean 0.5, deviation 0.5"
    if naflex:
        squashed = "as large as 256 patches of 16 x 16 allow, shape kept, bilinear; mean 0.5, deviation 0.5"
    facts = {
        "repository": (repository, *listed),
        "family": ("siglip2" if naflex else "siglip", "transformers 5.23, models/siglip2" if naflex else source, naflex),
        "layout": ("transformers", *listed),
        "activation": ("gelu_tanh", "transformers 5.23, models/siglip", True),
        "image_size": (size, *configured),
        "context": (64, "transformers 5.23, models/siglip", True),
        "preprocessing": (squashed, source, False),
        "license": timm(licence),
    }
    also = [PRETRAINED[model]["webli"]["hf_hub"].strip("/")] if model else []
    score = SCORES.get(alias)
    if score is None and f"{model} webli" in RESULTS:
        score = (RESULTS[f"{model} webli"], "open_clip docs/openclip_results.csv", True)
    return card(alias, title, facts, also, None, score)


def from_elsewhere(alias, title, repository, name, layout, activation, size, context, preprocessing, licence, note):
    source = f"model page of {repository}"
    facts = {
        "repository": (repository, source, False),
        "family": (name, source, False),
        "layout": (layout, source, False),
        "activation": (activation, source, False),
        "image_size": (size, source, False),
        "context": (context, source, False),
        "preprocessing": (preprocessing.format(size), source, False),
        "license": licence(repository) if callable(licence) else licence,
    }
    return card(alias, title, facts, (), note, SCORES.get(alias))


def main(wanted):
    tables = [(CLIP, from_open_clip), (SIGLIP, from_google), (OTHERS, from_elsewhere)]
    for rows, write in tables:
        for row in rows:
            if not wanted or row[0] in wanted:
                (HERE / f"{row[0]}.toml").write_text(write(*row))
                print(row[0])


if __name__ == "__main__":
    main(sys.argv[1:])
