"""A certificate authority for one test run, made by the openssl on the PATH."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Authority:
    """Its root in `folder`; `client` trusts it, `server` is who it says."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl on the PATH")
        self._folder = folder
        self._make("ca", "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign")

    def client(self) -> ssl.SSLContext:
        """For who trusts this authority alone."""
        return ssl.create_default_context(cafile=self._folder / "ca.pem")

    def server(self, name: str) -> ssl.SSLContext:
        """For a server whose certificate has this name (as in DNS:example.com)."""
        file = name.replace(":", "_")
        named = ("-subj", "/CN=test server", "-addext", f"subjectAltName={name}")
        self._make(file, "-CA", "ca.pem", "-CAkey", "ca.key", *named, "-addext", "basicConstraints=critical,CA:FALSE")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        return context

    def _make(self, file: str, *arguments: str) -> None:
        command = ("openssl", *NEW, "-keyout", f"{file}.key", "-out", f"{file}.pem", *arguments)
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)
