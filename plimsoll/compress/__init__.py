"""Making models smaller: what several of them share is stored once."""
