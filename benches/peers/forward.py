"""One peer's forward in a process of its own: python -m peers.forward SIDE TOWER CHECKPOINT EXPORTS BATCHES …

Random pixels (or captions of one length) of the checkpoint's shapes. Prints, as its last line,
{"seconds": {batch: [of each call]}, "peak": bytes, "version": …}. Calls that warm up are left out.
"""

import argparse
import json
import resource
import time
from pathlib import Path


def transformers(a):
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    config = transformers.AutoConfig.from_pretrained(a.checkpoint)
    kind = {"clip": "CLIP", "siglip": "Siglip"}[config.model_type]
    suffix = {"clip": "ModelWithProjection", "siglip": "Model"}[config.model_type]
    name = kind + {"image": "Vision", "text": "Text"}[a.tower] + suffix
    half = {"image": config.vision_config, "text": config.text_config}[a.tower]
    # The tower's own default is B/32's.
    half.projection_dim = getattr(config, "projection_dim", None)
    precision = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[a.precision]
    model = getattr(transformers, name).from_pretrained(a.checkpoint, config=half, dtype=precision).eval().to(a.device)

    def run(x):
        with torch.inference_mode():
            # Back to the processor's memory, as ours come: a call that has returned is over.
            found = model(x.to(a.device, precision if a.tower == "image" else None))
            return (found[0] if kind == "CLIP" else found.pooler_output).float().cpu()

    return run, torch.from_numpy, f"transformers {transformers.__version__}, torch {torch.__version__}"


def open_clip(a):
    import open_clip
    import torch

    torch.set_num_threads(a.threads)
    model = open_clip.create_model(a.checkpoint).eval()  # by its name: its own random weights
    embed = {"image": model.encode_image, "text": model.encode_text}[a.tower]

    def run(x):
        with torch.inference_mode():
            return embed(x)

    return run, torch.from_numpy, f"open_clip {open_clip.__version__}, torch {torch.__version__}"


def onnxruntime(a, suffix=""):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = a.threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = a.exports / f"{a.tower}{suffix}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x}), lambda x: x, f"onnxruntime {onnxruntime.__version__}"


def openvino(a, suffix="", hint="LATENCY"):
    import openvino as ov

    core = ov.Core()
    config = {"INFERENCE_NUM_THREADS": a.threads, "PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(a.exports / f"{a.tower}{suffix}.xml", "CPU", config)
    version = f"openvino {ov.__version__.split('-')[0]}"
    if hint == "LATENCY":
        request = model.create_infer_request()
        return lambda x: request.infer(x, share_inputs=True), lambda x: x, version
    queue = ov.AsyncInferQueue(model)

    def run(parts):
        for part in parts:
            queue.start_async(part, share_inputs=True)
        queue.wait_all()

    import numpy

    return run, lambda x: [p for p in numpy.array_split(x, len(queue)) if len(p)], version


SIDES = {
    "transformers": transformers,
    "open_clip": open_clip,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-streams": lambda a: openvino(a, hint="THROUGHPUT"),
    "onnxruntime-int8": lambda a: onnxruntime(a, ".int8"),
    "openvino-int8": lambda a: openvino(a, ".int8"),
    "openvino-int8-streams": lambda a: openvino(a, ".int8", "THROUGHPUT"),
}


def inputs(tower, batch, length, end, side=224):
    import numpy

    generator = numpy.random.default_rng(batch)
    if tower == "image":
        return generator.standard_normal((batch, 3, side, side), dtype=numpy.float32)
    ids = generator.integers(300, 4000, (batch, length))
    ids[:, -1] = end
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("tower", choices=["image", "text"])
    parser.add_argument("checkpoint", help="transformers' directory, or open_clip's name of the architecture")
    parser.add_argument("exports", type=Path)
    parser.add_argument("batches", help="of which size, with commas between")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="for one batch size; three calls at least, one if they are longer")
    parser.add_argument("--length", type=int, default=8, help="of captions, in tokens")
    parser.add_argument("--end", type=int, default=49407, help="the token that ends captions")
    parser.add_argument("--device", default="cpu", help="transformers alone")
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16"], help="transformers alone")
    a = parser.parse_args()
    run, convert, version = SIDES[a.side](a)
    seconds = {}
    for batch in map(int, a.batches.split(",")):
        x = convert(inputs(a.tower, batch, a.length, a.end))
        began = time.perf_counter()
        run(x)
        first = time.perf_counter() - began
        for _ in range(0 if first > a.seconds / 4 else 3):
            run(x)
        least, times, began = 1 if first > a.seconds else 3, [], time.perf_counter()
        while len(times) < least or (time.perf_counter() - began < a.seconds and len(times) < 200):
            start = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - start)
        seconds[batch] = times
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "version": version}))


if __name__ == "__main__":
    main()
