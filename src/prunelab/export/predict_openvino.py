"""Classify images with the network beside this file: python predict.py IMAGE ... Needs openvino, numpy, Pillow."""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

if __name__ == "__main__":
    model = openvino.Core().read_model(Path(__file__).with_name("model.xml"))
    form = json.loads(model.get_rt_info(["prunelab"]).astype(str))
    network = openvino.compile_model(model, "CPU")
    (channels, height, width), side = form["image_shape"], form["resize"]
    for file in sys.argv[1:]:
        image = Image.open(file).convert("RGB" if channels == 3 else "L")
        short = min(image.size)
        size = [side * each // short if form["keep_aspect"] else side for each in image.size]
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        image = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
        pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
        inputs = ((pixels - form["mean"]) / form["std"]).transpose(2, 0, 1)[None].astype(np.float32)
        (logits,) = network(inputs)[0]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        print(f"{file}: {form['classes'][shares.argmax()]} ({shares.max():.1%})")
