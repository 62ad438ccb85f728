"""Manifests that `nowserving keda check` is tested with."""
