"""The stacks nowserving is measured beside. Each has a virtual environment of its own."""
