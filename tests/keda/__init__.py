"""Kubernetes without a cluster: what tests of manifests share, and a model of those who decide how many workers run.

The model is of KEDA 2.20 and of the Horizontal Pod Autoscaler and the ReplicaSet of Kubernetes 1.35, written anew: each
part names the file of the published code that it follows.
"""
