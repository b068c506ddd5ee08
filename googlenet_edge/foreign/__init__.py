"""Somebody else's ONNX GoogLeNet: read, rewritten as an inference graph, and proven to compute the same."""
