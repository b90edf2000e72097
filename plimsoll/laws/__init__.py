"""Scaling laws: published forms, fits to measured points, and what to do with a budget."""
