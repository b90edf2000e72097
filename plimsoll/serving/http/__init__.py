"""An OpenAI-compatible HTTP server over a live engine."""
