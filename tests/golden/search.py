"""Embeddings as Python tools keep them: parquet in four shapes, and clip-retrieval's folder. Writes `search/`.

    env/bin/python search.py
"""

import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

OUT = pathlib.Path(__file__).parent / "search"
IDS = ["a.jpg", "b.jpg", "c.jpg", "a dog"]
KINDS = ["image", "image", "image", "text"]
ROWS = [[1, 0, 0], [0.5, 0.5, 0], None, [0, 0, 2]]
MODEL = "m@12345678"


def table(embedding, string=pa.string(), column="embedding"):
    schema = pa.schema(
        [("id", string), ("kind", string), ("text", string), (column, embedding.type)], metadata={"model": MODEL}
    )
    columns = [pa.array(IDS, string), pa.array(KINDS, string), pa.array([None] * 4, string), embedding]
    return pa.Table.from_arrays(columns, schema=schema)


def write(table, name):
    # The schema's metadata become the file's.
    pq.write_table(table, OUT / name, compression="snappy", store_schema=name != "list-f64.parquet")


def retrieval():
    folder = OUT / "retrieval"
    for name in ["img_emb", "text_emb", "metadata"]:
        (folder / name).mkdir(parents=True)
    images = [[[1, 0], [0, 1]], [[0.6, 0.8]]]
    texts = [[[0.8, 0.6], [0.5, 0.75**0.5]], [[-1, 0]]]
    captions = [["a cat", "a dog"], ["a bird"]]
    first = 0
    for number in range(2):
        pad = lambda rows: np.pad(np.array(rows, "<f2"), [(0, 0), (0, 1)])
        np.save(folder / f"img_emb/img_emb_{number}.npy", pad(images[number]))
        np.save(folder / f"text_emb/text_emb_{number}.npy", pad(texts[number]))
        paths = [f"photos/{first + row}.jpg" for row in range(len(captions[number]))]
        first += len(paths)
        metadata = pa.table({"image_path": paths, "caption": captions[number]})
        pq.write_table(metadata, folder / f"metadata/metadata_{number}.parquet")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    write(table(pa.array(ROWS, pa.list_(pa.float32(), 3))), "fixed-f32.parquet")
    halves = [None if row is None else [np.float16(x) for x in row] for row in ROWS]
    write(table(pa.array(halves, pa.list_(pa.float16(), 3))), "fixed-f16.parquet")
    write(table(pa.array(ROWS, pa.list_(pa.float64()))), "list-f64.parquet")
    write(table(pa.array(ROWS, pa.large_list(pa.float32())), pa.large_string()), "large.parquet")
    write(table(pa.array(ROWS, pa.list_(pa.float32(), 3)), column="other"), "no-embedding.parquet")
    retrieval()
