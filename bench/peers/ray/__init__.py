"""Ray Serve's asynchronous inference, as its guide shows it, but for one option that its API needs."""
