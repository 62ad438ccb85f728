"""The Celery worker and what it is made of: transport, taker, gate, lease, generate, engines."""
