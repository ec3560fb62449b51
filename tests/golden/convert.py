"""Small files for the tests of `models convert`: data/convert, with what torch reads out of them."""

import io
import json
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import save_file

import weights

HERE = Path(__file__).parent
OUT = HERE / "data" / "convert"


def odd_tensors():
    """Views of all sorts: transposed, cut out, shared, of every kind of number."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(6, 5, generator=generator)
    return OrderedDict(
        table=table,
        turned=table.t(),
        column=table[:, 2],
        window=table[1:4, 1:3],
        parameter=torch.nn.Parameter(torch.randn(3, generator=generator)),
        double=torch.randn(2, 2, generator=generator, dtype=torch.float64),
        half=torch.randn(4, generator=generator).half(),
        brain=torch.randn(4, generator=generator).bfloat16(),
        whole=torch.arange(5),
        flags=torch.tensor([True, False, True]),
        single=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
    )


def training(tensors):
    """What open_clip's training loop saves: weights of a wrapped model beside the optimiser's state."""
    state = OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items())
    state._metadata = OrderedDict([("", {"version": 1})])
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.98)}]}
    return {"epoch": 3, "name": "tiny", "state_dict": state, "optimizer": optimizer, "loss": numpy.float64(1.5)}


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("offset", torch.tensor([0.5]).half())

    def forward(self, x):
        return x @ self.weight.t() + self.offset


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Inner(), Inner()])
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)[:, :1].expand(-1, 3)
        return x * self.scale


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/clip-cli-was-here",)


def evil_archive(path):
    """A zip archive as torch writes it, whose pickle calls os.system."""
    with zipfile.ZipFile(path, "w") as archive:
        members = {"data.pkl": pickle.dumps({"weight": Evil()}, protocol=2), "byteorder": b"little", "version": b"3\n"}
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def siglip_npz(path):
    """A SigLIP as big_vision saves it, plain and with stacked layers, and what transformers makes of it.

    The arrays are made from transformers' tensors by the inverse of its own conversion script.
    """
    sizes = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2)
    config = transformers.SiglipConfig(
        text_config=dict(vocab_size=40, max_position_embeddings=6, projection_size=16, **sizes),
        vision_config=dict(image_size=8, patch_size=4, **sizes),
    )
    model = transformers.SiglipModel(config).eval()
    weights.draw(model, 11)
    for name, tensor in model.state_dict().items():  # the scanned copy is kept as bfloat16
        tensor.copy_(tensor.bfloat16().float())
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    width, heads = 16, 2

    def attention(prefix, name, theirs):
        kernel, bias = state.pop(f"{prefix}.{theirs}.weight").T, state.pop(f"{prefix}.{theirs}.bias")
        if name == "out":
            return {"kernel": kernel.reshape(heads, width // heads, width), "bias": bias}
        return {"kernel": kernel.reshape(width, heads, width // heads), "bias": bias.reshape(heads, width // heads)}

    def dense(prefix):
        return {"kernel": state.pop(f"{prefix}.weight").T, "bias": state.pop(f"{prefix}.bias")}

    def norm(prefix):
        return {"scale": state.pop(f"{prefix}.weight"), "bias": state.pop(f"{prefix}.bias")}

    def block(prefix):
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
        return {
            "LayerNorm_0": norm(f"{prefix}.layer_norm1"),
            "LayerNorm_1": norm(f"{prefix}.layer_norm2"),
            "MlpBlock_0": {"Dense_0": dense(f"{prefix}.mlp.fc1"), "Dense_1": dense(f"{prefix}.mlp.fc2")},
            "MultiHeadDotProductAttention_0": {n: attention(f"{prefix}.self_attn", n, t) for n, t in names.items()},
        }

    def encoder(tower, final):
        blocks = {f"encoderblock_{i}": block(f"{tower}.encoder.layers.{i}") for i in range(2)}
        return {**blocks, "encoder_norm": norm(f"{tower}.{final}")}

    head = "vision_model.head"
    packed, bias = state.pop(f"{head}.attention.in_proj_weight"), state.pop(f"{head}.attention.in_proj_bias")
    for i, name in enumerate("qkv"):
        state[f"{head}.attention.{name}_proj.weight"] = packed[i * width : (i + 1) * width]
        state[f"{head}.attention.{name}_proj.bias"] = bias[i * width : (i + 1) * width]
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    patches = "vision_model.embeddings.patch_embedding"
    tree = {
        "img": {
            "embedding": {
                "kernel": state.pop(f"{patches}.weight").transpose(2, 3, 1, 0), "bias": state.pop(f"{patches}.bias")
            },
            "pos_embedding": state.pop("vision_model.embeddings.position_embedding.weight")[None],
            "Transformer": encoder("vision_model", "post_layernorm"),
            "MAPHead_0": {
                "probe": state.pop(f"{head}.probe"),
                "LayerNorm_0": norm(f"{head}.layernorm"),
                "MlpBlock_0": {"Dense_0": dense(f"{head}.mlp.fc1"), "Dense_1": dense(f"{head}.mlp.fc2")},
                "MultiHeadDotProductAttention_0": {n: attention(f"{head}.attention", n, t) for n, t in names.items()},
            },
        },
        "txt": {
            "Embed_0": {"embedding": state.pop("text_model.embeddings.token_embedding.weight")},
            "pos_embedding": state.pop("text_model.embeddings.position_embedding.weight")[None],
            "Encoder_0": encoder("text_model", "final_layer_norm"),
            "head": dense("text_model.head"),
        },
        "t": state.pop("logit_scale"),
        "b": state.pop("logit_bias"),
    }
    assert not state, state.keys()
    plain = {f"params/{name}": numpy.ascontiguousarray(array) for name, array in flatten(tree)}
    # An array that numpy keeps column by column.
    plain["params/txt/Embed_0/embedding"] = numpy.asfortranarray(plain["params/txt/Embed_0/embedding"])
    numpy.savez(path / "siglip.npz", **plain)
    scanned = {}
    for name, array in plain.items():
        if "encoderblock_1" in name:
            continue
        if "encoderblock_0" in name:
            array = numpy.stack([array, plain[name.replace("encoderblock_0", "encoderblock_1")]])
            name = name.replace("encoderblock_0", "encoderblock")
        top = (numpy.ascontiguousarray(array).view(numpy.uint32) >> 16).astype(numpy.uint16)
        scanned[name] = top.view("V2")
    numpy.savez_compressed(path / "siglip-scanned.npz", **scanned)
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, 8, 8, generator=generator)
    ids = torch.randint(2, 40, (2, 6), generator=generator)
    with torch.no_grad():
        answer = {
            "pixels": pixels,
            "input_ids": ids,
            "image_embeds_raw": model.get_image_features(pixel_values=pixels).pooler_output,
            "text_embeds_raw": model.get_text_features(input_ids=ids).pooler_output,
        }
    save_file({name: tensor.contiguous() for name, tensor in answer.items()}, path / "siglip.safetensors")


def flatten(tree, path=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value


def openai_archive(path):
    """A TorchScript archive like OpenAI's: half precision, sizes as tensors, no configuration; and its state dict."""
    import open_clip

    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4},
        "text_cfg": {"context_length": 8, "vocab_size": 40, "width": 64, "heads": 1, "layers": 1},
    }
    model = open_clip.CLIP(**config).eval()
    weights.draw(model, 12)
    model = model.half().float()
    for name, size in (("input_resolution", 8), ("context_length", 8), ("vocab_size", 40)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(size))
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randn(2, 3, 8, 8, generator=generator)
    ids = torch.randint(0, 40, (2, 8), generator=generator)
    with torch.no_grad():
        answer = {
            "pixels": pixels,
            "input_ids": ids,
            "image_embeds_raw": model.encode_image(pixels),
            "text_embeds_raw": model.encode_text(ids),
        }
    save_file({name: tensor.contiguous() for name, tensor in answer.items()}, path / "openai.safetensors")

    class Holder(torch.nn.Module):
        """A module with the same attributes; what it computes is of no interest."""

        def forward(self, x):
            return x

    def holder(module):
        copy = Holder()
        for name, parameter in module.named_parameters(recurse=False):
            copy.register_parameter(name, torch.nn.Parameter(parameter.detach().half(), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if name != "attn_mask":
                copy.register_buffer(name, buffer.half() if buffer.is_floating_point() else buffer)
        for name, child in module.named_children():
            copy.add_module(name, holder(child))
        return copy

    archive = torch.jit.trace(holder(model), torch.zeros(1))
    archive.save(str(path / "openai.pt"))
    # The same weights as a training checkpoint: the state dict of a wrapped model.
    state = {k: v.half() for k, v in model.state_dict().items() if k not in ("input_resolution", "context_length", "vocab_size")}
    torch.save(training(state), path / "training" / "open_clip_pytorch_model.bin")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n"
    (path / "training" / "open_clip_config.json").write_text(text)


def write():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "training").mkdir(parents=True)
    tensors = odd_tensors()
    torch.save(training(tensors), OUT / "odd.pt")
    torch.save(training(tensors), OUT / "odd-legacy.bin", _use_new_zipfile_serialization=False)
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, OUT / "odd.safetensors")
    torch.jit.script(Outer()).save(str(OUT / "script.pt"))
    evil_archive(OUT / "evil.pt")
    legacy = io.BytesIO()
    for value in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}, {"weight": Evil()}, []):
        pickle.dump(value, legacy, protocol=2)
    (OUT / "evil-legacy.bin").write_bytes(legacy.getvalue())
    siglip_npz(OUT)
    openai_archive(OUT)
    for path in OUT.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write()
