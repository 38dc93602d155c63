"""Certificate and key files: readable, valid for how long, fitting each other, and not open to everybody."""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from voltflow.doctor.broker import SOON_S
from voltflow.doctor.checks import Check, Finding, ok, problem, skipped, warning


class Files(NamedTuple):
    """The three files of one connection by their settings; empty ones are not set."""

    prefix: str
    ca: str
    cert: str
    key: str


def check(connections: Iterable[Files]) -> Check:
    given = [files for files in connections if files.ca or files.cert or files.key]

    def look() -> Iterator[Finding]:
        if not given:
            yield skipped("no certificate files are set")
        for files in given:
            yield from _look(files)

    return Check("certificates", "certificate files", look)


def _look(files: Files) -> Iterator[Finding]:
    for name, path in ((f"{files.prefix}_ca", files.ca), (f"{files.prefix}_cert", files.cert)):
        if path:
            yield from _validity(name, Path(path))
    if files.key and not files.cert:
        yield problem(
            f"{files.prefix}_key is set, {files.prefix}_cert is not",
            f"set {files.prefix}_cert too, or neither",
        )
    if files.cert:
        yield from _pair(files)
    if files.key:
        yield from open_to_others(f"{files.prefix}_key", Path(files.key))


def _pair(files: Files) -> Iterator[Finding]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.cert, files.key or None, password="")
    except OSError as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            yield problem(f"the key in {files.key} is not that of the certificate in {files.cert}",
                          f"set {files.prefix}_key to the key that the certificate was made with")  # fmt: skip
        else:
            yield problem(f"{files.cert} and its key {files.key} cannot be used: {error.strerror or error}",
                          f"{files.prefix}_cert and {files.prefix}_key must be PEM files this program may read, "
                          "the key without a passphrase")  # fmt: skip
    else:
        yield ok(f"{files.prefix}_cert and {files.prefix}_key belong together")


def _validity(name: str, path: Path) -> Iterator[Finding]:
    try:
        data = path.read_bytes()
    except OSError as error:
        yield problem(
            f"{name} = '{path}' cannot be read: {error.strerror}", f"correct {name}, or the file's mode"
        )
        return
    try:
        from cryptography import x509
    except ImportError:
        yield skipped(f"{name}: when it ends is not known here", "pip install cryptography")
        return
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        yield problem(
            f"{name} = '{path}' holds no certificate: {error}", f"{name} must be a file in PEM form"
        )
        return
    ends = min(certificate.not_valid_after_utc for certificate in found)
    begins = max(certificate.not_valid_before_utc for certificate in found)
    left_s, day = ends.timestamp() - time.time(), ends.date().isoformat()
    if begins.timestamp() > time.time():
        yield problem(f"{name} is valid from {begins.date().isoformat()} only",
                      "is this machine's clock right (timedatectl)?")  # fmt: skip
    elif left_s <= 0:
        yield problem(
            f"{name} has expired on {day}", f"renew '{path}'; is this machine's clock right (timedatectl)?"
        )
    elif left_s < SOON_S:
        yield warning(f"{name} expires in {int(left_s // 86400)} days, on {day}", f"renew '{path}'")
    else:
        yield ok(f"{name} is valid until {day}")


def open_to_others(name: str, path: Path) -> Iterator[Finding]:
    """Nothing where only owner and group may read a file with a secret, or where it is not there."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o007:
        yield problem(
            f"everybody on this machine may read '{path}' of {name} (mode {mode:04o})", f"chmod 600 '{path}'"
        )
    elif mode & 0o020:
        yield warning(f"its group may change '{path}' of {name} (mode {mode:04o})", f"chmod 640 '{path}'")
