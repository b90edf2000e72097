"""Search over serving plans: enumerate, prune, rank in closed form, judge by simulation."""
