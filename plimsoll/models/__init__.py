"""Decoder architectures as plain ``nn.Module``s, one file each, and what they are loaded from."""
