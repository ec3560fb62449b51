"""trunks.json: what timm's own settings are for each vision transformer that open_clip may name as its image trunk.

The sizes come from the weights; these are the facts that weights cannot tell (heads, activation, epsilon, rotary
positions). `python trunks.py` writes data/trunks.json.
"""

import json
import re
import warnings
from pathlib import Path

import timm

PATTERNS = ["vit_*clip*", "vit_*siglip*", "eva*clip*", "vit_pe_core*", "eva_giant*", "vit_*_patch*_224", "vit_*_gap_*", "vit_*dinov2"]
REFUSED = re.compile("_reg|rope|relpos|rpn|mci|_d(little|wee)_")
# Other architectures under similar names, which the Rust code refuses by name or by their tensors.
OTHERS = ("NaFlexVit", "VisionTransformerRelPos")


def facts(name):
    model = timm.create_model(name, device="meta")
    block = model.blocks[0]
    if type(model).__name__ in OTHERS or type(block).__name__ not in ("Block", "EvaBlock", "EvaBlockPostNorm"):
        return None
    if type(block.mlp).__name__ not in ("Mlp", "SwiGLU"):
        return None
    act = block.mlp.act
    pool, rope = getattr(model, "attn_pool", None), getattr(model, "rope", None)
    found = {
        "width": model.embed_dim,
        "heads": block.attn.num_heads,
        "act": {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}[type(act).__name__],
        "eps": block.norm1.eps,
        "pool_heads": pool and pool.num_heads,
        "norm_after": type(block).__name__ == "EvaBlockPostNorm",
        "rope": rope
        and {
            "reference": rope.ref_feat_shape,
            "offset": rope.grid_offset,
            "columns_first": rope.grid_indexing == "xy",
        },
    }
    return found


def main():
    warnings.filterwarnings("ignore")
    names = sorted({name for pattern in PATTERNS for name in timm.list_models(pattern) if not REFUSED.search(name)})
    out = {}
    for name in names:
        try:
            found = facts(name)
        except AttributeError:
            continue
        if found:
            out[name] = found
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(found)}" for name, found in out.items())
    (Path(__file__).parent / "data" / "trunks.json").write_text(f"{{\n{lines}\n}}\n")
    print(len(out), "trunks")


if __name__ == "__main__":
    main()
