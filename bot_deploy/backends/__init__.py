"""One small file for each runtime, with `open_model(path, device, threads) -> Embedder`."""

# suffix -> device -> the module in backends/ that runs it there
BACKENDS = {
    ".onnx": {
        "cuda": "onnxruntime",
        "cpu": "onnxruntime",
        "openvino": "openvino",
        "openvino-bf16": "openvino",
        "tensorrt": "onnxruntime",
    },
    ".engine": {"cuda": "tensorrt", "tensorrt": "tensorrt"},
    ".pt": {"cuda": "torch", "cpu": "torch"},
}
DEVICES = ("auto", *dict.fromkeys(device for devices in BACKENDS.values() for device in devices))
# What "auto" tries, in this order. Not openvino-bf16, whose digits differ, nor tensorrt, which takes minutes to start.
AUTO = ("cuda", "cpu", "openvino")
