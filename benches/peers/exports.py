"""Towers as ONNX and OpenVINO files: python -m peers.exports CHECKPOINT OUT {image,text}.

Makes OUT/{image,text}.onnx from transformers' model, its dynamically quantised form .int8.onnx (per channel, QInt8) and
OpenVINO's .xml, and for the image tower .int8.xml, quantised after training by NNCF. Batch (and text length) stay free.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers


class ImageTower(torch.nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        self.model = transformers.AutoModel.from_pretrained(checkpoint).eval()

    def forward(self, pixels):
        found = self.model.get_image_features(pixel_values=pixels)
        return found if torch.is_tensor(found) else found.pooler_output


class TextTower(ImageTower):
    def forward(self, ids):
        found = self.model.get_text_features(input_ids=ids)
        return found if torch.is_tensor(found) else found.pooler_output


def export(checkpoint, out, tower):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    batch = torch.export.Dim("batch", min=1, max=4096)
    if tower == "image":
        module, example, shapes = ImageTower(checkpoint).eval(), torch.randn(2, 3, 224, 224), {0: batch}
    else:
        module, example = TextTower(checkpoint).eval(), torch.randint(5, 400, (2, 9))
        longest = module.model.config.text_config.max_position_embeddings
        shapes = {0: batch, 1: torch.export.Dim("length", min=4, max=longest)}
        example[:, -1] = module.model.config.text_config.eos_token_id
    path = out / f"{tower}.onnx"
    with torch.no_grad():
        torch.onnx.export(
            module, (example,), path, dynamo=True, external_data=True, dynamic_shapes=(shapes,),
            input_names=["x"], output_names=["y"], optimize=True, verbose=False,
        )
    quantize_dynamic(path, out / f"{tower}.int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    check(module, example, path)


def check(module, example, path):
    """An export that computes something else would be no peer."""
    import onnxruntime

    with torch.no_grad():
        right = module(example).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = np.abs(session.run(None, {session.get_inputs()[0].name: example.numpy()})[0] - right).max()
    if not worst < 1e-3 * np.abs(right).max():
        raise SystemExit(f"{path} is {worst} away from PyTorch")


def openvino(out, tower):
    import openvino as ov

    model = ov.convert_model(out / f"{tower}.onnx")
    ov.save_model(model, out / f"{tower}.xml", compress_to_fp16=False)
    if tower == "image":
        import nncf

        generator = np.random.default_rng(0)
        pixels = [generator.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(16)]
        quantised = nncf.quantize(model, nncf.Dataset(pixels), model_type=nncf.ModelType.TRANSFORMER, subset_size=16)
        ov.save_model(quantised, out / f"{tower}.int8.xml")


if __name__ == "__main__":
    checkpoint, out, tower = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    export(checkpoint, out, tower)
    openvino(out, tower)
