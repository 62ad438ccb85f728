"""Benchmarks: nowserving beside other ways to serve jobs from a queue, each run whole and seen from outside."""
