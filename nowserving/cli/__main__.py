"""`python -m nowserving.cli`: the same as `nowserving`."""

from nowserving.cli import app

app(prog_name="nowserving")
