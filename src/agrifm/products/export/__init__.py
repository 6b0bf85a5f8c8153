"""A trained model as one ONNX file, which runs without this package."""
