"""Small files of every kind for the fuzzer to begin with, beside the committed corpus.

Run from this directory; needs nothing but Python. `corpus/` holds files made by hand and what the fuzzer found worth
keeping; `seeds/`, which git ignores, holds those that the tests have anyway.
"""

import json
import struct
from pathlib import Path

GOLDEN = Path("../tests/golden/data")


def put(target: str, name: str, content: bytes, place="corpus"):
    path = Path(place) / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def safetensors(tensors: dict) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


for path in sorted((GOLDEN / "images").iterdir()):
    put("image", path.name, path.read_bytes(), "seeds")
for path in sorted(GOLDEN.glob("*/tokenizer.json")):
    put("tokenizer", path.parent.name, path.read_bytes(), "seeds")
for path in sorted(GOLDEN.glob("*/config.json")):
    put("config", path.parent.name, b"\0" + path.read_bytes(), "seeds")
for path in sorted(GOLDEN.glob("*/open_clip_config.json")):
    put("config", path.parent.name + "-open_clip", b"\1" + path.read_bytes(), "seeds")

two = {"a.weight": ("F32", [2, 2], bytes(16)), "a.bias": ("F16", [3], bytes(6))}
put("safetensors", "two", safetensors(two))
put("safetensors", "int8", safetensors({"w": ("I8", [2, 3], bytes(6)), "w.scale": ("F32", [2], bytes(8))}))
put("safetensors", "huge", safetensors({"w": ("F32", [2**62, 2], b"")}))
put("text", "mojibake", "Ã©tÃ© &amp;amp; <b>ï¿½</b> …".encode())
put("text", "emoji", "a \U0001f469‍\U0001f4bb's photo, ＦＵＬＬ ﬁ".encode())
put("labels", "lines", b"cat\ndog\n\n# no comment\n")
put("labels", "json", b'{"0": "cat", "1": "dog"}')
put("labels", "templates", b'["a photo of a {}.", "a {c}"]')
put("labels", "table", b'label,name\n0,"a ""cat"""\n1,dog\n')
