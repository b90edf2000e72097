"""From logits to text: drawing tokens, constraining them by a grammar, decoding and ending."""
