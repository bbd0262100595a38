"""What runs a network: torch, ONNX Runtime, OpenVINO and `torch.export` programs."""
