"""Kubernetes: what a cluster is told of each model, written from the catalog."""
