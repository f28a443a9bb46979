"""Everything that is written to and read from disk as a model: ONNX files, TensorRT engines, checkpoints."""
