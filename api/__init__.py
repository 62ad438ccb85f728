"""The FastAPI front: it puts jobs into Redis and shows them."""
