"""Opens every output of `embed` with its usual Python reader, and compares them with each other.

    python outputs.py PROGRAM FOLDER_OF_IMAGES

Needs numpy, pandas, pyarrow, safetensors, embedding_reader and tensorboard. Prints a table for docs/outputs.md.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from embedding_reader import EmbeddingReader
from google.protobuf import text_format
from importlib.metadata import version
from safetensors import safe_open
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig


def main() -> None:
    program, images = sys.argv[1:3]
    folder = pathlib.Path(tempfile.mkdtemp())

    def embed(name: str, *more: str, code: int = 1) -> pathlib.Path:
        command = [program, "embed", images, "none.png", "--text", "a cat", "--quiet", "--output", folder / name, *more]
        assert subprocess.run(command).returncode == code, command
        return folder / name

    records = [json.loads(line) for line in embed("out.jsonl").read_text().splitlines()]
    good = [record for record in records if "embedding" in record]
    ids = [record["id"] for record in good]
    matrix = np.array([record["embedding"] for record in good], dtype=np.float32)
    failed = [record["id"] for record in records if "error" in record]
    rows = []

    def same(reader: str, package: str, format: str, found_ids: list, found: np.ndarray, says: str, half: bool = False):
        expected = matrix.astype(np.float16) if half else matrix
        count = len(found)
        assert list(found_ids) == ids[:count], (reader, found_ids)
        assert found.dtype == expected.dtype, (reader, found.dtype)
        assert np.array_equal(found, expected[:count]), reader
        rows.append((format, f"{reader} ({package} {version(package)})", says))

    frame = pd.read_json(folder / "out.jsonl", lines=True)
    stacked = np.stack(frame["embedding"].dropna().to_numpy()).astype(np.float32)
    same("`pandas.read_json(lines=True)`", "pandas", "jsonl", frame["id"][frame["embedding"].notna()], stacked, str(stacked.shape))

    array = np.load(embed("out.npy"), mmap_mode="r")
    lines = [json.loads(line) for line in (folder / "out.ids.jsonl").read_text().splitlines()]
    same("`numpy.load(mmap_mode='r')`", "numpy", "npy", [line["id"] for line in lines], np.asarray(array), f"{array.shape} {array.dtype}")
    array = np.load(embed("half.npy", "--output-dtype", "f16"))
    same("`numpy.load`", "numpy", "npy, f16", ids, array, f"{array.shape} {array.dtype}", half=True)

    with safe_open(embed("out.safetensors"), "np") as tensors:
        names = json.loads(tensors.get_tensor("ids").tobytes())
        tensor, about = tensors.get_tensor("embeddings"), tensors.metadata()
        same("`safetensors.safe_open`", "safetensors", "safetensors", names, tensor, f"{tensor.shape}, model {about['model']}")

    for name, half in (("out.parquet", False), ("half.parquet", True)):
        table = pq.read_table(embed(name, *(("--output-dtype", "f16") if half else ())))
        about = json.loads(pq.read_metadata(folder / name).metadata[b"clip-cli"])
        present = table.filter(table["error"].is_null())
        numbers = np.stack(present["embedding"].to_numpy(zero_copy_only=False))
        kind = str(table.schema.field("embedding").type)
        same("`pyarrow.parquet.read_table`", "pyarrow", "parquet" + (", f16" if half else ""), present["id"].to_pylist(), numbers,
             f"{table.num_rows} rows, `{kind}`, {about['failed']} failed", half=half)
        assert table.filter(table["error"].is_valid())["id"].to_pylist() == failed
        frame = pd.read_parquet(folder / name)
        present = frame[frame["error"].isna()]
        same("`pandas.read_parquet`", "pandas", "parquet" + (", f16" if half else ""), present["id"], np.stack(present["embedding"].to_numpy()),
             f"columns {', '.join(frame.columns)}", half=half)

    for name, separator in (("out.csv", ","), ("out.tsv", "\t")):
        frame = pd.read_csv(embed(name), sep=separator)
        present = frame[frame["error"].isna()]
        numbers = present.filter(regex=r"^e\d+$").to_numpy().astype(np.float32)
        same("`pandas.read_csv`", "pandas", name[4:], present["id"], numbers, str(numbers.shape))

    def embed_images(name: str, format: str) -> pathlib.Path:
        command = [program, "embed", images, "none.png", "--quiet", "--output", folder / name, "--format", format]
        assert subprocess.run(command).returncode == 1
        return folder / name

    layout = embed_images("clip-retrieval", "clip-retrieval")
    reader = EmbeddingReader(embeddings_folder=str(layout / "img_emb"), file_format="npy")
    array = np.concatenate([batch for batch, _ in reader(batch_size=4)])
    paths = pd.read_parquet(layout / "metadata" / "metadata_0.parquet")["image_path"]
    # It hands out f32, made of the f16 in the file.
    assert np.array_equal(array.astype(np.float16), matrix[: len(array)].astype(np.float16))
    assert list(paths) == ids[: len(array)]
    rows.append(("clip-retrieval", f"`embedding_reader.EmbeddingReader` (embedding_reader {version('embedding_reader')})",
                 f"{reader.count} rows of {reader.dimension} numbers"))
    reader = EmbeddingReader(embeddings_folder=str(layout / "img_emb"), metadata_folder=str(layout / "metadata"),
                             meta_columns=["image_path"], file_format="parquet_npy")
    pairs = [path for _, meta in reader(batch_size=4) for path in meta["image_path"]]
    assert pairs == list(paths)
    rows.append(("clip-retrieval", "the same with `file_format='parquet_npy'`", f"{len(pairs)} rows with `image_path`"))

    points = embed_images("points", "projector")
    config = text_format.Parse((points / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings[0]
    array = np.loadtxt(points / config.tensor_path, delimiter="\t", dtype=np.float32)
    labels = pd.read_csv(points / config.metadata_path, sep="\t", keep_default_na=False)
    assert list(labels["id"]) == ids[: len(array)] and np.array_equal(array, matrix[: len(array)])
    from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file
    assert np.array_equal(_read_tensor_tsv_file(str(points / config.tensor_path)).astype(np.float32), array)
    rows.append(("projector", f"TensorBoard's own reader and `ProjectorConfig` (tensorboard {version('tensorboard')})",
                 f"{array.shape}, {len(labels)} labels"))

    print("| format | opened with | what it says |\n|---|---|---|")
    for row in rows:
        print(f"| {row[0]} | {row[1]} | {row[2]} |")


if __name__ == "__main__":
    main()
