"""`voltflow doctor` as its users run it, and its report by check."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DOCTOR = [sys.executable, "-m", "voltflow.cli", "doctor"]


class Report:
    """What the doctor said; `texts("clock", "problem")` are the texts and fixes of one check's findings."""

    def __init__(self, exit_code: int, document: Any) -> None:
        self.exit_code, self.document = exit_code, document
        self.by_check = {result["check"]: result for result in document["results"]}

    def status(self, check: str) -> str:
        return str(self.by_check[check]["status"])

    def texts(self, check: str, status: str) -> str:
        """Empty where the check found nothing of that status."""
        found = [f for f in self.by_check[check]["findings"] if f["status"] == status]
        assert all(f["fix"] for f in found if status in ("warning", "problem")), f"without a remedy: {found}"
        return "\n".join(f"{f['text']} → {f['fix']}" for f in found)


def doctor(
    program: str, folder: Path, settings: Mapping[str, object], *, environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (), more: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Run it in a process of its own, in `folder`; `before` is put before its command line."""
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    done = subprocess.run(
        [*before, "env", *variables, *DOCTOR, program, "--json", *more, *given],
        cwd=folder, check=False, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    report = Report(done.returncode, json.loads(done.stdout))
    assert report.exit_code == report.document["exit_code"]
    return report


class Authority:
    """An authority of a test's own; what it issues is valid from yesterday for `days`, which may be negative."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._key = folder, name, ec.generate_private_key(ec.SECP256R1())
        self.ca = self._write(f"{name}.crt", self._issue(name, self._key, 400, None))

    def issue(self, name: str, *, days: float = 300, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Certificate and key for an address or a host's name."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._write(f"{name}.crt", self._issue(name, key, days, host))
        path = self._folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        path.chmod(0o600)
        return certificate, path

    def _issue(self, name: str, key: Any, days: float, host: str | None) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        end = now + dt.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - dt.timedelta(days=1))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self._folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
