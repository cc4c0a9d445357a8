"""From a run to a bundle for others: Model Zoo form, ONNX, .pt2 and TorchScript, and a certificate of all."""
