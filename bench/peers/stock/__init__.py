"""FastAPI and a stock Celery worker, set up for what its users want most: that no job is lost."""
