"""A peer's whole program, JPEGs to one .npy: python -m peers.embed SIDE CHECKPOINT EXPORTS PHOTOS OUT [COUNT].

What a careful user would write: batches of 32, two threads that decode and preprocess ahead, nothing imported that is
not needed. The front end of runtimes is Pillow and numpy, with CLIP's arithmetic.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BATCH = 32
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pillow(path):
    from PIL import Image

    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((width * 224 // short, height * 224 // short), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return ((pixels / 255 - np.float32(MEAN)) / np.float32(DEVIATION)).transpose(2, 0, 1)


def transformers(checkpoint, exports, threads):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    torch.set_num_threads(threads)
    model = CLIPVisionModelWithProjection.from_pretrained(checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint)

    def prepare(path):
        return processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def embed(batch):
        with torch.inference_mode():
            return model(torch.stack(batch)).image_embeds.numpy()

    return prepare, embed


def open_clip(checkpoint, exports, threads):
    import open_clip
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    model.eval()

    def embed(batch):
        with torch.inference_mode():
            return model.encode_image(torch.stack(batch)).numpy()

    return lambda path: transform(Image.open(path)), embed


def onnxruntime(checkpoint, exports, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(f"{exports}/image.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return pillow, lambda batch: session.run(None, {name: np.stack(batch)})[0]


def openvino(checkpoint, exports, threads):
    import openvino as ov

    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(f"{exports}/image.xml", "CPU", config).create_infer_request()
    return pillow, lambda batch: request.infer(np.stack(batch), share_inputs=True)[0].copy()


SIDES = {"transformers": transformers, "open_clip": open_clip, "onnxruntime": onnxruntime, "openvino": openvino}


def main():
    side, checkpoint, exports, photos, out, threads, count = sys.argv[1:8]
    paths = sorted(Path(photos).glob("*.jpg"))[: int(count)]
    prepare, embed = SIDES[side](checkpoint, exports, int(threads))
    rows = []
    with ThreadPoolExecutor(2) as workers:
        waiting = [workers.submit(prepare, path) for path in paths[: 2 * BATCH]]
        for start in range(0, len(paths), BATCH):
            batch = [task.result() for task in waiting[:BATCH]]
            ahead = paths[start + 2 * BATCH : start + 3 * BATCH]
            waiting = waiting[BATCH:] + [workers.submit(prepare, path) for path in ahead]
            rows.append(embed(batch))
    rows = np.concatenate(rows)
    np.save(out, rows / np.linalg.norm(rows, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
