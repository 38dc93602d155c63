"""The Dockerfile and what goes into its images: good by hadolint, pinned, true to docker-compose.yml; the health check."""

from __future__ import annotations

import http.server
import importlib.metadata
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.compose import DOCKERFILE, complaint, services, stages, tool, written
from tests.servers import REPOSITORY
from voltflow import __version__

CONTAINERS = DOCKERFILE.parent


def test_hadolint_has_nothing_to_say() -> None:
    assert complaint(tool("hadolint"), "--failure-threshold", "style", str(DOCKERFILE)) == ""


def test_hadolint_would_say_it(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("--no-cache-dir", ""))
    assert "DL3042" in complaint(tool("hadolint"), str(wrong))


@pytest.mark.parametrize(
    "name", [name for name, service in written()["services"].items() if "build" in service]
)
def test_what_we_build_is_what_the_dockerfile_has(name: str) -> None:
    service = services()[name]
    build = service["build"]
    assert Path(build["context"]) == REPOSITORY
    assert REPOSITORY / build["dockerfile"] == DOCKERFILE
    stage = stages()[build["target"]]
    assert service["healthcheck"]["test"] == ["CMD", *stage.health]
    assert service["user"] == stage.user
    assert service["command"] == stage.cmd or name == "mlflow"
    assert "org.opencontainers.image.title" in stage.label
    assert "org.opencontainers.image.licenses" in stage.label
    version = "RELEASE.2025-10-15T17-29-55Z" if name == "minio" else __version__
    assert service["image"] == f"voltflow/{name}:{version}"
    mounts = {mount["target"] for mount in service.get("volumes") or ()}
    assert mounts == set(stage.volumes)


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    allowed = {
        line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line.startswith("!")
    }
    sources = {source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
               for source in line.split()[:-1]}  # fmt: skip
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert source in allowed or str(Path(source).parent) in allowed, source


def test_images_are_pinned_in_the_dockerfile() -> None:
    images = re.findall(r"^ARG \w+_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(images) == 4
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+(-[\w.-]+)?", image), image
    assert {stage.base for stage in stages().values()} - set(stages()) == {
        "${PYTHON_IMAGE}", "${NODE_IMAGE}", "${GO_IMAGE}", "${ALPINE_IMAGE}",
    }  # fmt: skip


def _closure(names: list[str]) -> set[str]:
    """The distributions that these need, as they are installed here."""
    found: set[str] = set()
    todo = [(Requirement(name).name, frozenset(Requirement(name).extras)) for name in names]
    while todo:
        name, extras = todo.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        found.add(key)
        for text in importlib.metadata.requires(name) or ():
            wanted = Requirement(text)
            marks = [{"extra": extra} for extra in (extras or {""})]
            if wanted.marker is None or any(
                wanted.marker.evaluate({**mark, "python_version": "3.13"}) for mark in marks
            ):
                todo.append((wanted.name, frozenset(wanted.extras)))
    return found


def test_the_images_packages_are_pinned_all() -> None:
    pinned = {
        line.partition("==")[0]
        for line in (CONTAINERS / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    own = [text for text in importlib.metadata.requires("voltflow") or ()
           if not re.search(r"extra == .(?!edge|cloud|sim)", text) and not text.startswith("voltflow")]  # fmt: skip
    wanted = _closure([text.partition(";")[0].strip() for text in own])
    assert len(wanted) > 20
    assert wanted - pinned == set()
    assert {"mlflow", "psycopg2-binary", "boto3"} < pinned


def test_the_health_check_tells_what_it_sees(tmp_path: Path) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers["Authorization"] == "Bearer right"
            self.send_response(200 if right else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def check(*arguments: str) -> int:
        command = [sys.executable, str(CONTAINERS / "health.py"), *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            assert check(url) == 1
            for word, status in (("right", 0), ("wrong", 1)):
                token = tmp_path / "token"
                token.write_text(f"{word}\n")
                assert check(url, str(token)) == status
        finally:
            server.shutdown()
    assert check(url) == 1
