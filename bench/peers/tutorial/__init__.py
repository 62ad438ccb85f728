"""The tutorials' stack: FastAPI, `task.delay`, `AsyncResult`, Redis as broker and result backend, all by default."""
