"""Kubernetes: what a cluster is told of each model, and what is wrong in what others wrote."""
