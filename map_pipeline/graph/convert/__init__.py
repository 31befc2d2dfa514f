"""Converters from ONNX, TensorFlow.js and dlib files to the graphs that `executor` runs."""
