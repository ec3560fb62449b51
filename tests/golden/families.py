"""open_clip_configs.json: the model configurations that come with open_clip, in one file: `python families.py`.

A Rust test asks which of them we read and compares docs/families.md with the answer.
"""

import json
from pathlib import Path

import open_clip

configs = sorted((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))
lines = ",\n".join(f" {json.dumps(path.stem)}: {json.dumps(json.loads(path.read_text()))}" for path in configs)
out = Path(__file__).parent / "data" / "open_clip_configs.json"
out.write_text(f"{{\n{lines}\n}}\n")
print(len(configs), "configurations,", out.stat().st_size, "bytes")
