"""Engines: what makes tokens. Each owns its model in one thread."""
