"""The tiny checkpoints: one function per layout, each writing the files a Hub repository would have."""

import contextlib
import json
from functools import partial
from pathlib import Path

import numpy
import open_clip
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import get_act_layer
from timm.models import convnext, efficientnet, eva, fastvit, vision_transformer
from timm.models import vision_transformer_hybrid as hybrid
from timm.utils import reparameterize_model
from torch import nn

import images
import vocabularies
import weights

HERE = Path(__file__).parent
OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def write_json(path: Path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def save(path: Path, tensors, dtype=torch.float32, larger_than=0):
    """Store tensors of more than `larger_than` numbers as `dtype`, the others as f32."""
    tensors = {
        k: v.to(dtype if v.numel() > larger_than else torch.float32) if v.is_floating_point() else v
        for k, v in tensors.items()
    }
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


# ---- transformers layout


def sample(size):
    """The synthetic photographs as a batch of squares, and some noise."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    pictures = [Image.open(HERE / "images" / name).convert("RGB").resize(size) for name in images.NAMES]
    pixels = torch.stack([torch.tensor(numpy.array(picture)) for picture in pictures]).permute(0, 3, 1, 2) / 127.5 - 1
    return torch.cat([pixels, torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(20))])


def hf(path: Path, config, preprocessor, seed, dtype=torch.float32, extra=None, shards=None, calibrated=None):
    write_json(path / "config.json", config)
    write_json(path / "preprocessor_config.json", preprocessor)
    config = transformers.AutoConfig.from_pretrained(path)
    model = transformers.AutoModel.from_config(config)
    weights.draw(model, seed)
    if calibrated:
        weights.calibrate(model.vision_model, sample(calibrated))
    tensors = {**model.state_dict(), **(extra or {})}
    if not shards:
        return save(path / "model.safetensors", tensors, dtype)
    index = {}
    for n, belongs in enumerate(shards, 1):
        name = f"model-{n:05}-of-{len(shards):05}.safetensors"
        shard = {k: v for k, v in tensors.items() if belongs(k)}
        index |= dict.fromkeys(shard, name)
        save(path / name, shard, dtype)
    assert len(index) == len(tensors)
    write_json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": dict(sorted(index.items()))})


def hf_clip_quickgelu(path):
    """A sparse, old config: defaults left out, eos 2, a nested projection_dim that loses, unknown keys, position_ids."""
    vocab = vocabularies.write_clip(path, 77)
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 40,
        "heads": 12,
        "text_config_dict": None,
        "text_config": {
            "hidden_size": 48, "intermediate_size": 128, "num_attention_heads": 3, "num_hidden_layers": 2,
            "vocab_size": vocab, "projection_dim": 512, "bos_token_id": 0, "eos_token_id": 2, "layers": 99,
        },
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": 2,
            "image_size": 32, "patch_size": 8, "projection_dim": 768, "unknown": {"nested": True},
        },
    }
    preprocessor = {
        "crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": OPENAI_MEAN, "image_std": OPENAI_STD,
        "resample": 3, "size": 32,
    }
    positions = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    hf(path, config, preprocessor, seed=1, extra=positions)


def hf_clip_gelu(path):
    """GELU in both towers (the vision tower's through the legacy vision_config_dict), a real eos id, f16 shards."""
    vocab = vocabularies.write_clip(path, 24, pad="!")
    text = {
        "hidden_act": "gelu", "hidden_size": 72, "intermediate_size": 144, "num_attention_heads": 3,
        "num_hidden_layers": 2, "vocab_size": vocab, "max_position_embeddings": 24, "bos_token_id": vocab - 2,
        "eos_token_id": vocab - 1, "projection_dim": 48,
    }
    vision = {
        "hidden_size": 80, "intermediate_size": 200, "num_attention_heads": 5, "num_hidden_layers": 2,
        "image_size": 48, "patch_size": 12, "projection_dim": 48,
    }
    config = {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 48, "torch_dtype": "float16",
        "logit_scale_init_value": 2.6592, "text_config": text, "vision_config": vision,
        "vision_config_dict": {**vision, "hidden_act": "gelu"},
    }
    preprocessor = {
        "crop_size": {"height": 48, "width": 48}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
        "do_rescale": True, "do_resize": True, "image_mean": OPENAI_MEAN, "image_std": OPENAI_STD,
        "image_processor_type": "CLIPImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 48},
    }
    shards = [lambda k: k.startswith("text_model."), lambda k: not k.startswith("text_model.")]
    hf(path, config, preprocessor, seed=2, dtype=torch.float16, shards=shards)


def hf_siglip(path):
    """SigLIP 1: almost everything by default; ids from a Unigram tokenizer that canonicalises."""
    vocab = vocabularies.write_t5(path, 64, canonical=True)
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = {
        "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", "vocab_size": vocab, **sizes},
        "vision_config": {"model_type": "siglip_vision_model", "image_size": 48, **sizes},
    }
    preprocessor = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor", "resample": 3,
        "rescale_factor": 1 / 255, "size": {"height": 48, "width": 48},
    }
    hf(path, config, preprocessor, seed=5, dtype=torch.float16)


def hf_siglip2(path):
    """SigLIP 2 at a fixed resolution: projection_size, bilinear resize, Gemma tokenizer, bf16, no architectures."""
    vocab = vocabularies.write_gemma(path, 64, "GemmaTokenizer")
    config = {
        "model_type": "siglip",
        "text_config": {
            "hidden_size": 48, "intermediate_size": 112, "num_attention_heads": 3, "num_hidden_layers": 2,
            "vocab_size": vocab, "projection_size": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
        },
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 2, "num_hidden_layers": 2,
            "image_size": 42, "patch_size": 14,
        },
    }
    preprocessor = {
        "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor",
        "resample": 2, "rescale_factor": 1 / 255, "size": {"height": 42, "width": 42},
    }
    hf(path, config, preprocessor, seed=6, dtype=torch.bfloat16)


# ---- open_clip layout


def open_clip_layout(path: Path, model_cfg, preprocess_cfg, seed, calibrated=False, **storage):
    write_json(path / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg})
    with contextlib.chdir(path):  # a relative hf_model_name is a folder of the checkpoint
        model = open_clip.create_model("local-dir:.", pretrained_text=False)
    weights.draw(model, seed)
    if calibrated:
        weights.calibrate(model.visual, sample(model.visual.image_size))
    save(path / "open_clip_model.safetensors", model.state_dict(), **storage)


def preprocess(mean=OPENAI_MEAN, std=OPENAI_STD, interpolation="bicubic", resize_mode="shortest"):
    return {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}


def open_clip_vit(path):
    """GELU by absence of quick_gelu; CLIP's own vocabulary in full, so texts are tested end to end."""
    model = {
        "embed_dim": 40,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    # open_clip cannot interpolate positions stored as f16 on a CPU: only the large tensors are.
    open_clip_layout(path, model, preprocess(), seed=3, dtype=torch.float16, larger_than=2000)


def open_clip_vit_quickgelu(path):
    """quick_gelu, head_width, squash, another mean and std, a tokenizer kept in the checkpoint."""
    vocab = vocabularies.write_clip(path, 20)
    model = {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 64, "head_width": 16, "mlp_ratio": 3.0, "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 20, "vocab_size": vocab, "width": 48, "heads": 6, "layers": 2,
            "hf_tokenizer_name": "example/tiny-clip",
        },
    }
    config = preprocess([0.48, 0.45, 0.41], [0.23, 0.22, 0.21], resize_mode="squash")
    open_clip_layout(path, model, config, seed=4)


def siglip_model(trunk, vocab, **text):
    return {
        "embed_dim": 128,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 48, "timm_model_name": trunk, "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 64, "vocab_size": vocab, "hf_tokenizer_name": "example/tiny-siglip",
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 64, "heads": 4, "layers": 2,
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, **text,
        },
    }


def open_clip_siglip(path):
    """As open_clip's ViT-B-16-SigLIP: timm trunk, erf GELU in both towers."""
    vocab = vocabularies.write_t5(path, 64, canonical=False)
    config = preprocess([0.5] * 3, [0.5] * 3, resize_mode="squash")
    open_clip_layout(path, siglip_model("vit_base_patch16_siglip_224", vocab), config, seed=7, dtype=torch.float16)


def open_clip_siglip2(path):
    """As open_clip's ViT-B-16-SigLIP2-256: erf GELU in the trunk, tanh GELU in the text tower."""
    vocab = vocabularies.write_gemma(path, 64, "PreTrainedTokenizerFast")
    config = preprocess([0.5] * 3, [0.5] * 3, resize_mode="squash")
    model = siglip_model("vit_base_patch16_siglip_256", vocab, act_kwargs={"approximate": "tanh"})
    open_clip_layout(path, model, config, seed=8, dtype=torch.bfloat16)


def custom_text(path, vision, embed_dim):
    """CustomTextCLIP with a BERT text tower whose config and tokenizer are in the folder `text`."""
    folder = path / "text"
    vocab = vocabularies.write_wordpiece(folder, 32)
    bert = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocab, "hidden_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 40,
        "type_vocab_size": 2, "pad_token_id": 0,
    }
    write_json(folder / "config.json", bert)
    return {
        "embed_dim": embed_dim,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": {
            "hf_model_name": "text", "hf_tokenizer_name": "text", "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear", "context_length": 32,
        },
    }


def custom_text_effnet(path):
    vision = {
        "image_size": 48, "timm_model_name": "tf_efficientnet_lite0", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear", "timm_proj_bias": True,
    }
    config = preprocess([0.5] * 3, [0.5] * 3, interpolation="bilinear")
    open_clip_layout(path, custom_text(path, vision, 40), config, seed=9, dtype=torch.float16)


def custom_text_dinov2(path):
    vision = {
        "image_size": 42, "timm_model_name": "vit_small_patch14_dinov2", "timm_model_pretrained": False,
        "timm_pool": "token", "timm_proj": "linear",
    }
    config = preprocess([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    open_clip_layout(path, custom_text(path, vision, 32), config, seed=10, dtype=torch.float16)


# ---- other text towers

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
TINY_IMAGE = {**TINY, "image_size": 24, "patch_size": 8}
TINY_VIT = {"image_size": 24, "layers": 2, "width": 32, "head_width": 8, "mlp_ratio": 2.0, "patch_size": 8}
HALF = {"dtype": torch.float16, "larger_than": 1000}  # positions stay f32, see open_clip_vit
MULTILINGUAL = ["a photo of a cat", "Two dogs in the snow!", "一只猫的照片，你好世界。", "<s> Blue_ball & 2 chairs <pad> $5?", ""]
WITH_PADDING = ["a photo of a cat", "two dogs! in the snow!", "the cat sleeps on a green chair, a close-up", ""]  # "!" is 0


def clip_processor(side, **more):
    return {
        "crop_size": {"height": side, "width": side}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": OPENAI_MEAN,
        "image_std": OPENAI_STD, "image_processor_type": "CLIPImageProcessor", "resample": 3,
        "rescale_factor": 1 / 255, "size": {"shortest_edge": side}, **more,
    }


def hf_metaclip2(path):
    """MetaCLIP 2: XLM-V's vocabulary, whose texts really end with id 2; QuickGELU by default."""
    vocab = vocabularies.write_xlm_roberta(path, 20)
    config = {
        "architectures": ["MetaClip2Model"], "model_type": "metaclip_2", "projection_dim": 24,
        "text_config": {
            **TINY, "vocab_size": vocab, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 2,
            "pad_token_id": 1,
        },
        "vision_config": TINY_IMAGE,
    }
    hf(path, config, clip_processor(24), seed=20, dtype=torch.float16)


def hf_chinese_clip(path):
    """Chinese-CLIP: a BERT text tower with GELU beside a QuickGELU ViT, squashed images, only a vocab.txt."""
    vocab = vocabularies.write_chinese(path, 512)
    config = {
        "architectures": ["ChineseCLIPModel"], "model_type": "chinese_clip", "projection_dim": 24,
        "text_config": {
            **TINY, "model_type": "chinese_clip_text_model", "vocab_size": vocab, "max_position_embeddings": 64,
            "hidden_act": "gelu",
        },
        "vision_config": {**TINY_IMAGE, "model_type": "chinese_clip_vision_model"},
    }
    square = {"height": 24, "width": 24}
    processor = clip_processor(24, do_center_crop=False, size=square, image_processor_type="ChineseCLIPImageProcessor")
    hf(path, config, processor, seed=21, dtype=torch.float16)


def hf_altclip(path):
    """AltCLIP: XLM-RoBERTa, a last layer norm and a dense layer before the projection, named as on the Hub."""
    vocab = vocabularies.write_xlm_roberta(path, 24)
    config = {
        "architectures": ["AltCLIPModel"], "model_type": "altclip", "projection_dim": 24,
        "text_config": {**TINY, "vocab_size": vocab, "max_position_embeddings": 34, "project_dim": 28},
        "vision_config": TINY_IMAGE,
    }
    hf(path, config, clip_processor(24), seed=22, dtype=torch.float16)
    # Transformers 5 builds `layers` and reads the `layer` of the Hub's files.
    tensors = load_file(path / "model.safetensors")
    tensors = {k.replace("roberta.encoder.layers.", "roberta.encoder.layer."): v for k, v in tensors.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "model.safetensors").chmod(0o644)


def open_clip_metaclip2(path):
    """As open_clip's ViT-H-14-worldwide; more text positions than the 16 that are stored."""
    vocab = vocabularies.write_xlm_roberta(path, 20)
    model = {
        "embed_dim": 24,
        "vision_cfg": TINY_VIT,
        "text_cfg": {
            "context_length": 20, "vocab_size": vocab, "hf_tokenizer_name": "facebook/xlm-v-base", "width": 32,
            "heads": 4, "layers": 2, "pool_type": "eos", "eos_id": 2,
        },
    }
    open_clip_layout(path, model, preprocess(), seed=23, **HALF)
    tensors = load_file(path / "open_clip_model.safetensors")
    tensors["positional_embedding"] = tensors["positional_embedding"][:16]
    save(path / "open_clip_model.safetensors", tensors, **HALF)


def hf_text(path, kind, vocab, **text):
    """An open_clip ViT with a text tower of transformers, kept in the folder `text`."""
    config = {
        **TINY, "model_type": kind, "vocab_size": vocab, "max_position_embeddings": 34, "type_vocab_size": 1,
        "pad_token_id": 1, "layer_norm_eps": 1e-5,
    }
    write_json(path / "text" / "config.json", config)
    return {
        "embed_dim": 24,
        "vision_cfg": TINY_VIT,
        "text_cfg": {"hf_model_name": "text", "hf_tokenizer_name": "text", "context_length": 24, **text},
    }


def open_clip_xlm_roberta(path):
    """As open_clip's xlm-roberta-base-ViT-B-32: mean pooling and a projection of two layers; SentencePiece's file."""
    vocab = vocabularies.write_sentencepiece(path / "text", 24)
    model = hf_text(path, "xlm-roberta", vocab, hf_pooler_type="mean_pooler")
    open_clip_layout(path, model, preprocess(), seed=24, **HALF)


def open_clip_roberta(path):
    """As open_clip's roberta-ViT-B-32 (quick_gelu), but RoBERTa's own pooler; vocab.json and merges.txt."""
    vocab = vocabularies.write_roberta(path / "text", 24)
    model = hf_text(path, "roberta", vocab, hf_pooler_type="cls_pooler", hf_proj_type="linear")
    open_clip_layout(path, {**model, "quick_gelu": True}, preprocess(), seed=25, **HALF)


def open_clip_clipa(path):
    """As open_clip's ViT-L-14-CLIPA: mean before the last norm, no first norm, bilinear squash, blanked [SEP]."""
    vocab = vocabularies.write_wordpiece(path, 16)
    model = {
        "embed_dim": 24,
        "vision_cfg": {
            **TINY_VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
            "pos_embed_type": "sin_cos_2d",
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": vocab + 7, "hf_tokenizer_name": "bert-base-uncased",
            "tokenizer_kwargs": {"strip_sep_token": True}, "width": 32, "heads": 4, "layers": 2,
            "pool_type": "last", "no_causal_mask": True,
        },
    }
    config = preprocess([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "bilinear", "squash")
    open_clip_layout(path, model, config, seed=26, **HALF)


def open_clip_coca(path):
    """As open_clip's coca_ViT-B-32: attentional pooler, class token behind the text, padding with id 0, a decoder."""
    vocab = vocabularies.write_clip(path, 20, pad="!", merge_count=30)
    model = {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            **TINY_VIT, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 3,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 20, "vocab_size": vocab, "hf_tokenizer_name": "example/tiny-coca", "width": 32,
            "heads": 4, "layers": 2, "embed_cls": True, "output_tokens": True,
        },
        "multimodal_cfg": {"context_length": 20, "vocab_size": vocab, "width": 32, "heads": 4, "layers": 1},
    }
    open_clip_layout(path, model, preprocess(), seed=27, **HALF)


def register_tiny_trunks():
    """Make timm build narrow trunks under the real names; everything but the sizes stays as timm has it."""

    def vit(name, **sizes):
        return lambda pretrained=False, **kwargs: vision_transformer._create_vision_transformer(
            name, pretrained=False, **{**sizes, **kwargs}
        )

    def tf_efficientnet_lite0(pretrained=False, **kwargs):
        arch = [
            ["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e6_c8"], ["ir_r2_k5_s2_e6_c8"], ["ir_r3_k3_s2_e6_c16"],
            ["ir_r3_k5_s1_e6_c16"], ["ir_r4_k5_s2_e6_c24"], ["ir_r1_k3_s1_e6_c32"],
        ]
        return efficientnet._create_effnet(
            "tf_efficientnet_lite0", False,
            block_args=efficientnet.decode_arch_def(arch, 1.0, fix_first_last=True),
            num_features=96, stem_size=8, fix_stem=True,
            round_chs_fn=partial(efficientnet.round_channels, multiplier=1.0),
            act_layer=get_act_layer("relu6"),
            norm_layer=partial(nn.BatchNorm2d, eps=efficientnet.BN_EPS_TF_DEFAULT),
            pad_type="same", **kwargs,
        )

    siglip = dict(img_size=48, patch_size=16, embed_dim=128, num_heads=2, class_token=False, global_pool="map")
    dinov2 = dict(img_size=42, patch_size=14, embed_dim=64, num_heads=1, depth=2, init_values=1e-5)
    timm.models._registry._model_entrypoints.update(
        vit_base_patch16_siglip_224=vit("vit_base_patch16_siglip_224", depth=2, **siglip),
        vit_base_patch16_siglip_256=vit("vit_base_patch16_siglip_256", depth=1, **siglip),
        vit_small_patch14_dinov2=vit("vit_small_patch14_dinov2", **dinov2),
        tf_efficientnet_lite0=tf_efficientnet_lite0,
    )
    register_tiny_vits(vit)


# ---- more vision transformers in open_clip's layout


def timm_clip(path, vision, seed, preprocess_cfg=None, embed_dim=32, context=20, dtype=torch.float16):
    """A CustomTextCLIP with a timm trunk and a small causal text tower."""
    vocab = vocabularies.write_clip(path, context)
    model = {
        "embed_dim": embed_dim,
        "custom_text": True,
        "vision_cfg": {"timm_model_pretrained": False, **vision},
        "text_cfg": {
            "context_length": context, "vocab_size": vocab, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 2.0,
            "hf_tokenizer_name": "example/tiny-clip",
        },
    }
    open_clip_layout(path, model, preprocess_cfg or preprocess(), seed=seed, dtype=dtype, larger_than=2000)


def eva02_clip(path):
    """As EVA02-B-16: rotary and learnt positions, gated MLP, layer norms inside both branches, keys without a bias."""
    vision = {"image_size": 32, "timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token", "timm_proj": None}
    timm_clip(path, vision, seed=20)


def eva_clip(path):
    """As EVA01-g-14: queries and values have a bias, keys none; the trunk's own classifier is the projection."""
    vision = {"image_size": 32, "timm_model_name": "eva_giant_patch14_224", "timm_pool": "token", "timm_proj": None}
    timm_clip(path, vision, seed=21)


def eva02_clip_enormous(path):
    """As EVA02-E-14: a layer norm after each branch."""
    name = "eva02_enormous_patch14_clip_224"
    timm_clip(path, {"image_size": 32, "timm_model_name": name, "timm_pool": "token", "timm_proj": None}, seed=22)


def pe_core(path):
    """As PE-Core-T-16-384: rotary positions by column and row from 1, attention pooling with eight heads."""
    vision = {"image_size": 32, "timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map", "timm_proj": None}
    config = preprocess([0.5] * 3, [0.5] * 3, interpolation="bilinear", resize_mode="squash")
    timm_clip(path, vision, seed=23, preprocess_cfg=config, context=32)


def pe_core_gigantic(path):
    """As PE-Core-bigG-14-448: no class token, rotary positions from 0."""
    name = "vit_pe_core_gigantic_patch14_448"
    config = preprocess([0.5] * 3, [0.5] * 3, interpolation="bilinear", resize_mode="squash")
    vision = {"image_size": 32, "timm_model_name": name, "timm_pool": "map", "timm_proj": None}
    timm_clip(path, vision, seed=24, preprocess_cfg=config, context=72)


def timm_vit_clip(path):
    """CLIP's ViT as timm has it, as small as TinyCLIP's."""
    vision = {"image_size": 32, "timm_model_name": "vit_xsmall_patch16_clip_224", "timm_pool": "token", "timm_proj": "linear"}
    timm_clip(path, vision, seed=25)


def timm_vit_gap(path):
    """As open_clip's vit_medium_patch16_gap_256: no class token, no bias on queries, keys and values, LayerScale."""
    vision = {"image_size": 32, "timm_model_name": "vit_medium_patch16_gap_256", "timm_pool": "", "timm_proj": "linear"}
    timm_clip(path, vision, seed=26)


def timm_vit_avg(path):
    """A plain ViT whose last layer norm follows the mean over patches."""
    vision = {"image_size": 32, "timm_model_name": "vit_huge_patch14_224", "timm_pool": "avg", "timm_proj": None}
    timm_clip(path, vision, seed=27)


def open_clip_siglip2_so400m(path):
    """As open_clip's ViT-SO400M-16-SigLIP2-256: tanh GELU in the trunk, sixteen heads."""
    vocab = vocabularies.write_gemma(path, 64, "PreTrainedTokenizerFast")
    config = preprocess([0.5] * 3, [0.5] * 3, resize_mode="squash")
    model = siglip_model("vit_so400m_patch16_siglip_256", vocab, act_kwargs={"approximate": "tanh"}, width=32)
    model["embed_dim"] = model["vision_cfg"]["image_size"] = 32
    open_clip_layout(path, model, config, seed=28, dtype=torch.bfloat16)


def hf_siglip2_naflex(path):
    """As google/siglip2-base-patch16-naflex: each image has as many patches as fit, in its own proportions."""
    vocab = vocabularies.write_gemma(path, 64, "GemmaTokenizer")
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_hidden_layers": 2}
    config = {
        "model_type": "siglip2",
        "text_config": {"model_type": "siglip2_text_model", "vocab_size": vocab, "pad_token_id": 0, **sizes},
        "vision_config": {"model_type": "siglip2_vision_model", "num_patches": 25, "patch_size": 8, **sizes},
    }
    preprocessor = {
        "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_processor_type": "Siglip2ImageProcessorFast", "image_std": [0.5] * 3, "max_num_patches": 20,
        "patch_size": 8, "processor_class": "Siglip2Processor", "resample": 2, "rescale_factor": 1 / 255,
    }
    hf(path, config, preprocessor, seed=29, dtype=torch.float16)


def register_tiny_vits(vit):
    def eva_trunk(name, **sizes):
        """timm's own settings for this name, but for the sizes."""
        real = timm.models._registry._model_entrypoints[name]

        def build(pretrained=False, **kwargs):
            create = eva._create_eva
            eva._create_eva = lambda name, pretrained=False, **settings: create(name, **{**settings, **sizes, **kwargs})
            try:
                return real(pretrained=False, **kwargs)
            finally:
                eva._create_eva = create

        return build

    tiny = dict(img_size=32, patch_size=8, embed_dim=64, depth=2, mlp_ratio=2.0)
    clip = partial(timm.layers.LayerNorm, eps=1e-5)
    trunks = dict(
        eva02_base_patch16_clip_224=eva_trunk(
            "eva02_base_patch16_clip_224", **{**tiny, "embed_dim": 128, "depth": 1, "num_heads": 2, "mlp_ratio": 0.5}
        ),
        eva_giant_patch14_224=eva_trunk("eva_giant_patch14_224", **tiny, num_heads=16),
        eva02_enormous_patch14_clip_224=eva_trunk("eva02_enormous_patch14_clip_224", **tiny, num_heads=16),
        vit_pe_core_tiny_patch16_384=eva_trunk("vit_pe_core_tiny_patch16_384", **tiny, num_heads=1, attn_pool_mlp_ratio=1.5),
        vit_pe_core_gigantic_patch14_448=eva_trunk(
            "vit_pe_core_gigantic_patch14_448", **{**tiny, "depth": 1}, num_heads=16, attn_pool_mlp_ratio=1.5
        ),
        vit_xsmall_patch16_clip_224=vit("vit_xsmall_patch16_clip_224", **tiny, num_heads=1, pre_norm=True, norm_layer=clip),
        vit_medium_patch16_gap_256=vit(
            "vit_medium_patch16_gap_256", **tiny, num_heads=1, class_token=False, global_pool="avg", qkv_bias=False,
            init_values=1e-6, fc_norm=False,
        ),
        vit_huge_patch14_224=vit("vit_huge_patch14_224", **tiny, num_heads=16),
        vit_so400m_patch16_siglip_256=vit(
            "vit_so400m_patch16_siglip_256", **{**tiny, "embed_dim": 32}, num_heads=16, class_token=False,
            global_pool="map", act_layer="gelu_tanh",
        ),
    )
    timm.models._registry._model_entrypoints.update(trunks)


# Three images, where it is the tower that is new.
FEW = ["landscape.jpg", "odd-margin.png", "tiny.png"]

# ---- convolutional towers


def small_text(vocab, context=16, **text):
    return {"context_length": context, "vocab_size": vocab, "width": 48, "heads": 3, "layers": 1,
            "hf_tokenizer_name": "example/tiny-clip", **text}


def conv_clip(path, vision, seed, config=None, custom_text=False, **text):
    """An open_clip CLIP with this image tower and a small text tower of its own."""
    vocab = vocabularies.write_clip(path, 16)
    model = {"embed_dim": 40, "vision_cfg": vision, "text_cfg": small_text(vocab, **text)}
    if custom_text:
        model["custom_text"] = True
    calibrated = "convnext" not in vision["timm_model_name"]
    open_clip_layout(path, model, config or preprocess(), seed, calibrated, dtype=torch.float16, larger_than=200)


def timm_trunk(name, **config):
    return {"image_size": 48, "timm_model_name": name, "timm_model_pretrained": False, **config}


MOBILE = {"timm_pool": "avg", "timm_proj": None, "timm_drop": 0.0, "timm_drop_path": 0.0}


def open_clip_mobileclip(path):
    """As MobileCLIP-S1: branches as trained, squeeze-and-excite, batch norms before attention, no causal mask."""
    config = preprocess([0.0] * 3, [1.0] * 3, interpolation="bilinear")
    conv_clip(path, timm_trunk("fastvit_mci1", **MOBILE), 21, config, custom_text=True, no_causal_mask=True)


def open_clip_mobileclip_folded(path):
    """The same weights after timm's reparameterize_model."""
    open_clip_mobileclip(path)
    weights = path / "open_clip_model.safetensors"
    with contextlib.chdir(path):
        model = open_clip.create_model("local-dir:.").eval()
    model.visual.trunk = reparameterize_model(model.visual.trunk)
    save(weights, model.state_dict())


def open_clip_mobileclip2(path):
    """As MobileCLIP2-S3: five stages, layer norms before attention, a stem without 1x1 branches, CLIP's mean and std."""
    config = preprocess(interpolation="bilinear")
    conv_clip(path, timm_trunk("fastvit_mci3", **MOBILE), 22, config, custom_text=True, no_causal_mask=True)


def open_clip_mobileclip_b(path):
    """As MobileCLIP-B: a ViT whose patches three convolutions embed, a class token without position, a causal mask."""
    vision = {**timm_trunk("vit_base_mci_224", **MOBILE), "image_size": 32, "timm_pool": "token"}
    config = preprocess([0.0] * 3, [1.0] * 3, interpolation="bilinear")
    conv_clip(path, vision, 27, config, custom_text=True)


def open_clip_resnet(path):
    """As RN50-quickgelu: anti-aliased strides, attention pool; heads of 64 in the pool."""
    vocab = vocabularies.write_clip(path, 16)
    model = {
        "embed_dim": 40, "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 2], "width": 4, "patch_size": None},
        "text_cfg": small_text(vocab),
    }
    open_clip_layout(path, model, preprocess(), 23, calibrated=True, dtype=torch.float16, larger_than=200)


def open_clip_convnext(path):
    """As convnext_base_w: the trunk's own pool and norm, a linear head."""
    conv_clip(path, timm_trunk("convnext_base", timm_pool="", timm_proj="linear", timm_drop=0.0, timm_drop_path=0.1), 24)


def open_clip_convnext_mlp(path):
    """As convnext_large_d, with xxlarge's epsilon: an MLP as head."""
    vision = timm_trunk("convnext_xxlarge", timm_pool="", timm_proj="mlp", timm_drop=0.0, timm_drop_path=0.1)
    conv_clip(path, vision, 25)


def hf_align(path):
    """EfficientNet with squeeze-and-excite (both kinds of padding), BERT, a temperature, squash then crop to an odd side."""
    vocab = vocabularies.write_wordpiece(path, 64)
    config = {
        "architectures": ["AlignModel"], "model_type": "align", "projection_dim": 48, "temperature_init_value": 1.0,
        "text_config": {
            "vocab_size": vocab, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 96, "max_position_embeddings": 80,
        },
        "vision_config": {
            "image_size": 49, "width_coefficient": 0.25, "depth_coefficient": 0.6, "hidden_dim": 96,
            "out_channels": [16, 24, 40, 40, 64, 64, 192], "in_channels": [32, 16, 24, 40, 40, 64, 64],
            "depthwise_padding": [3],
        },
    }
    preprocessor = {
        "crop_size": {"height": 49, "width": 49}, "do_center_crop": True, "do_normalize": False, "do_rescale": True,
        "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "EfficientNetImageProcessor",
        "image_std": [0.229, 0.224, 0.225], "include_top": False, "processor_class": "AlignProcessor", "resample": 2,
        "rescale_factor": 0.00784313725490196, "rescale_offset": True, "size": {"height": 58, "width": 58},
    }
    hf(path, config, preprocessor, seed=26, dtype=torch.float16, calibrated=49)


def register_tiny_conv_trunks():
    def fastvit_trunk(name, **sizes):
        return lambda pretrained=False, **kwargs: fastvit._create_fastvit(name, pretrained=False, **{**sizes, **kwargs})

    def vit_base_mci_224(pretrained=False, **kwargs):
        stem = hybrid.ConvStem(
            channels=(16, 16, 64), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
        )
        sizes = dict(embed_dim=64, depth=2, num_heads=1, no_embed_class=True, img_size=32)
        return hybrid._create_vision_transformer_hybrid(
            "vit_base_mci_224", backbone=stem, embed_args=dict(proj=False), pretrained=False, **{**sizes, **kwargs}
        )

    def convnext_trunk(name, **sizes):
        return lambda pretrained=False, **kwargs: convnext._create_convnext(name, pretrained=False, **{**sizes, **kwargs})

    positions = partial(fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))
    timm.models._registry._model_entrypoints.update(
        fastvit_mci1=fastvit_trunk(
            "fastvit_mci1", layers=(1, 2, 1, 2), embed_dims=(8, 8, 16, 32), mlp_ratios=(3, 3, 3, 3),
            se_downsamples=(False, False, True, True), pos_embs=(None, None, None, positions),
            token_mixers=("repmixer", "repmixer", "repmixer", "attention"), lkc_use_act=True,
        ),
        fastvit_mci3=fastvit_trunk(
            "fastvit_mci3", layers=(1, 1, 1, 1, 1), embed_dims=(8, 8, 16, 32, 32), mlp_ratios=(4,) * 5,
            se_downsamples=(False,) * 5, downsamples=(False, True, True, True, True),
            pos_embs=(None, None, None, positions, positions),
            token_mixers=("repmixer", "repmixer", "repmixer", "attention", "attention"), lkc_use_act=True,
            norm_layer=partial(fastvit.LayerNorm2d, eps=1e-5), stem_use_scale_branch=False,
        ),
        vit_base_mci_224=vit_base_mci_224,
        convnext_base=convnext_trunk("convnext_base", depths=[1, 1, 2, 1], dims=[8, 16, 24, 40]),
        convnext_xxlarge=convnext_trunk("convnext_xxlarge", depths=[1, 1, 1, 1], dims=[8, 16, 24, 40], norm_eps=1e-5),
    )


# name, writer, sizes for interpolated positions, images and texts if not the usual ones
CHECKPOINTS = {
    "hf-clip-quickgelu": (hf_clip_quickgelu, (40, 24)),
    "hf-clip-gelu": (hf_clip_gelu, ()),
    "open_clip-vit": (open_clip_vit, (64, 32)),
    "open_clip-vit-quickgelu": (open_clip_vit_quickgelu, ()),
    "hf-siglip": (hf_siglip, (64, 32)),
    "hf-siglip2": (hf_siglip2, ()),
    "open_clip-siglip": (open_clip_siglip, (64, 32)),
    "open_clip-siglip2": (open_clip_siglip2, ()),
    "custom-text-effnet": (custom_text_effnet, ()),
    "custom-text-dinov2": (custom_text_dinov2, ()),
    "eva02-clip": (eva02_clip, (48, 24), FEW),
    "eva-clip": (eva_clip, (), FEW),
    "eva02-clip-enormous": (eva02_clip_enormous, (), FEW),
    "pe-core": (pe_core, (48, 24), FEW),
    "pe-core-gigantic": (pe_core_gigantic, (), FEW),
    "timm-vit-clip": (timm_vit_clip, (), FEW),
    "timm-vit-gap": (timm_vit_gap, (), FEW),
    "timm-vit-avg": (timm_vit_avg, (), FEW),
    "hf-siglip2-naflex": (hf_siglip2_naflex, (56, 24)),
    "open_clip-siglip2-so400m": (open_clip_siglip2_so400m, (), FEW),
    "hf-metaclip2": (hf_metaclip2, (), None, MULTILINGUAL),
    "hf-chinese-clip": (hf_chinese_clip, (32, 16), None, MULTILINGUAL),
    "hf-altclip": (hf_altclip, (), None, MULTILINGUAL),
    "open_clip-metaclip2": (open_clip_metaclip2, (), None, MULTILINGUAL),
    "open_clip-xlm-roberta": (open_clip_xlm_roberta, (), None, MULTILINGUAL),
    "open_clip-roberta": (open_clip_roberta, (), None, MULTILINGUAL),
    "open_clip-clipa": (open_clip_clipa, (32, 16)),
    "open_clip-coca": (open_clip_coca, (), None, WITH_PADDING),
    "open_clip-mobileclip": (open_clip_mobileclip, (), FEW),
    "open_clip-mobileclip-folded": (open_clip_mobileclip_folded, (), FEW),
    "open_clip-mobileclip2": (open_clip_mobileclip2, (), FEW),
    "open_clip-mobileclip-b": (open_clip_mobileclip_b, (), FEW),
    "open_clip-resnet": (open_clip_resnet, (), FEW),
    "open_clip-convnext": (open_clip_convnext, (), FEW),
    "open_clip-convnext-mlp": (open_clip_convnext_mlp, (), FEW),
    "hf-align": (hf_align, (), FEW),
}
