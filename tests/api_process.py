"""The API as a process that can be killed: uvicorn's own command."""

from __future__ import annotations

from pathlib import Path

from nowserving.cli.command import api_command
from nowserving.cli.port import find_free_port
from nowserving.job import new_job_id
from tests.child_process import ChildProcess


class ApiProcess(ChildProcess):
    """`uvicorn api.app:app` on a port that stays the same over its lives."""

    def __init__(self, redis_url: str, folder: Path, catalog: str, **settings: object) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        models_file = folder / f"models-{new_job_id()}.toml"
        models_file.write_text(catalog)
        env = {
            "NOWSERVING_REDIS_URL": redis_url,
            "NOWSERVING_MODELS_FILE": str(models_file),
            **{f"NOWSERVING_{name.upper()}": str(value) for name, value in settings.items()},
        }
        super().__init__(api_command("127.0.0.1", self.port), env, folder / f"api-{self.port}.log")
