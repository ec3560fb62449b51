"""Small files of every kind for the fuzzer to begin with, beside the committed corpus.

Run from this directory; needs nothing but Python. `corpus/` holds files made by hand and what the fuzzer found worth
keeping; `seeds/`, which git ignores, holds those that the tests have anyway.
"""

import io
import json
import struct
import tarfile
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

for path in sorted((GOLDEN / "convert").glob("*.*")):
    if path.stat().st_size < 50_000:
        put("foreign_weights", path.name, path.read_bytes(), "corpus" if path.stat().st_size < 3000 else "seeds")
for path in sorted(Path("../tests/golden/search").glob("*.parquet")):
    put("embeddings", path.name, b"\3" + path.read_bytes(), "seeds")
    put("source", path.name, b"\4" + path.read_bytes(), "seeds")
for path in sorted(GOLDEN.glob("*/vocab.txt")):
    put("vocabulary", path.parent.name, b"\1" + path.read_bytes(), "seeds")
for path in sorted(GOLDEN.glob("*/*.model")):
    put("vocabulary", path.parent.name + "-" + path.name, b"\0" + path.read_bytes(), "seeds")

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
put("vocabulary", "merges", b"\2#version: 0.2\na b\nab c</w>\n")
put("vocabulary", "wordpiece", b"\1[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\ncat\n")
npy = b"\x93NUMPY\1\0v\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".ljust(117) + b"\n" + bytes(24)
put("embeddings", "npy", b"\0" + npy)
put("embeddings", "jsonl", b'\1{"id":"a","kind":"image","embedding":[1,0.5],"dim":2,"model":"m@12345678"}\n')
put("embeddings", "safetensors", b"\2" + safetensors({"embeddings": ("F32", [2, 2], bytes(16))}))
pixels = b"\x93NUMPY\1\0v\0" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 3), }".ljust(117) + b"\n" + bytes(12)
put("source", "list", b"\0a.png\nb/c.jpg\n")
put("source", "csv", b'\1filepath,title,label\na.png,"a ""cat""",cat\nb.png\n')
put("source", "tsv", "\2\ufefffilepath\ttitle\r\na.png\ta dog\r\n".encode())
put("source", "jsonl", b'\3{"image": "a.png", "caption": ["a", "b"], "label": 3}\n')
put("source", "npy", b"\6" + pixels)
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
    for name, content in [("0.jpg", b"\xff\xd8\xff"), ("0.txt", b"a cat"), ("../1.png", b""), ("a" * 120 + ".json", b"{}")]:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
put("source", "tar", b"\5" + archive.getvalue())
# The fingerprint and the contents are those of the set in `targets.rs`.
own = {"format": "clip-cli few-shot split 1", "data": "set", "fingerprint": "95ef1a6171f2e90b313d987ebed43ba3", "shots": "1",
       "seed": 1, "subset": "all", "set_classes": 2, "classes": ["ant", "bee"],
       "train": [["ant/0.ppm", 0, f"{7:032x}"], ["bee/0.ppm", 1, f"{7:032x}"]], "val": [], "short": [["ant", 1]],
       "twice": 0, "left_out": 1, "left_out_first": [["x.png", "corrupt", "no image"]]}
put("split", "ours", b"\0" + json.dumps(own, separators=(",", ":")).encode())
# Its images are the file itself.
theirs = {"train": [["split_zhou.json", 0, "ant"], ["./split_zhou.json", "3", "bee_eater"]],
          "val": [["val/split.jpg", 0, "ant"]], "test": [["test/1.jpg", 3, "bee_eater"], ["test/1.jpg", 0, "ant"]]}
put("split", "coop", b"\1" + json.dumps(theirs).encode())
