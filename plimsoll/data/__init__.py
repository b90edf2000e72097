"""Data: which examples to train on, by quality and by difficulty; stores to retrieve from."""
