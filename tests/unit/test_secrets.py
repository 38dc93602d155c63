"""`voltflow secrets`: what is made, what stays, who may read it, and that mosquitto and OpenSSL agree with it."""

import os
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from tests import servers
from voltflow import kept_file
from voltflow.admin import broker_rights as rights
from voltflow.admin.certificates import hosts_of, make_authority, make_server
from voltflow.admin.secret_files import TOKENS
from voltflow.cli import main


def run(folder: Path, *arguments: str) -> int:
    return main(["secrets", "--folder", str(folder), *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_run_changes_nothing_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--device", "demo/SIM000001", "--host", "gw.example.org") == 0
    before = contents(folder)
    assert f"made  {folder}/influx_token" in capsys.readouterr().out
    assert run(folder) == 0
    assert contents(folder) == before
    assert f"0 made, {len(before)} kept" in capsys.readouterr().out


def test_every_secret_is_random_and_long(folder: Path) -> None:
    run(folder)
    found = [(folder / name).read_text().strip() for name in TOKENS]
    assert len(set(found)) == len(found)
    assert all(len(password) >= 32 for password in found)


def test_only_the_owner_comes_in_and_containers_may_read(folder: Path) -> None:
    old = os.umask(0o077)  # of a careful user
    try:
        run(folder, "--device", "demo/SIM000001")
    finally:
        os.umask(old)
    assert {mode(path) for path in (folder, folder / "gateways", folder / "devices")} == {0o700}
    private = {"ca.key", "devices/demo.SIM000001"}
    modes = {name: mode(folder / name) for name in contents(folder)}
    assert {name for name, bits in modes.items() if bits == 0o600} == private
    assert {bits for name, bits in modes.items() if name not in private} == {0o444}


def test_a_folder_that_others_may_enter_is_closed_again(folder: Path) -> None:
    run(folder)
    folder.chmod(0o755)
    run(folder)
    assert mode(folder) == 0o700


def test_what_is_renewed_is_new_with_all_that_is_made_of_it(folder: Path) -> None:
    run(folder)
    before = contents(folder)
    run(folder, "--renew", "bridge_database_password", "gateways/gateway-1")
    changed = {name for name, data in contents(folder).items() if data != before[name]}
    assert changed == {
        "bridge_database_password", "bridge_database", "gateways/gateway-1", "edge_passwords", "cloud_passwords",
    }  # fmt: skip
    password = (folder / "bridge_database_password").read_text().strip()
    assert f":{password}@timescale" in (folder / "bridge_database").read_text()


def test_renewing_all_leaves_nothing_as_it_was_but_rights(folder: Path) -> None:
    run(folder)
    before = contents(folder)
    run(folder, "--renew")
    same = {name for name, data in contents(folder).items() if data == before[name]}
    assert same == {"edge_acl", "cloud_acl"}


def test_a_new_authority_signs_the_certificates_anew(folder: Path) -> None:
    run(folder, "--host", "gw.example.org")
    run(folder, "--renew", "ca")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    assert context.cert_store_stats()["x509_ca"] == 1
    for broker in ("edge_broker", "cloud_broker"):
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            str(folder / "ca.crt"),
        ]
        done = subprocess.run(
            [*command, str(folder / f"{broker}.crt")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "gw.example.org" in hosts_of((folder / f"{broker}.crt").read_bytes())


@pytest.mark.parametrize(
    ("renewed", "not_written"),
    [
        ("edge_broker", "edge_broker.key"),
        ("ca", "ca.key"),
        ("ca", "edge_broker.crt"),
        ("ca", "cloud_broker.key"),
    ],
)
def test_a_run_that_ended_between_certificate_and_key_is_made_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch, renewed: str, not_written: str
) -> None:
    """The next one sees that they do not belong together, and servers start again."""
    run(folder)
    write = kept_file.write

    def write_until_then(path: Path, data: bytes) -> None:
        if path.name == not_written:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(kept_file, "write", write_until_then)
    with pytest.raises(KeyboardInterrupt):
        run(folder, "--renew", renewed)
    monkeypatch.setattr(kept_file, "write", write)
    assert run(folder) == 0
    for broker in ("edge_broker", "cloud_broker"):
        certificate, key = folder / f"{broker}.crt", folder / f"{broker}.key"
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, key
        )  # raises where they do not fit
        subprocess.run(
            ["openssl", "verify", "-CAfile", folder / "ca.crt", certificate], check=True, capture_output=True
        )
    before = contents(folder)
    assert run(folder) == 0
    assert contents(folder) == before


def test_hosts_are_added_and_stay(folder: Path) -> None:
    run(folder)
    run(folder, "--host", "192.0.2.7")
    before = contents(folder)
    run(folder)
    assert contents(folder) == before
    hosts = hosts_of(before["edge_broker.crt"])
    assert hosts == ["mosquitto", "localhost", "127.0.0.1", "192.0.2.7"]


def test_devices_and_gateways_of_earlier_runs_stay(folder: Path) -> None:
    run(folder, "--device", "demo/A1", "--gateway", "depot-3")
    run(folder, "--device", "demo/B2")
    users = [line.split(":")[0] for line in (folder / "edge_passwords").read_text().splitlines()]
    assert users == ["agent", "simulator", "health", "depot-3", "demo.A1", "demo.B2"]
    at_cloud = [line.split(":")[0] for line in (folder / "cloud_passwords").read_text().splitlines()]
    assert at_cloud == ["bridge", "health", "depot-3"]


@pytest.mark.parametrize(
    "arguments",
    [["--gateway", "bridge"], ["--gateway", "a b"], ["--device", "demo"], ["--device", "a/b/c"], ["--renew", "nothing"]],
)  # fmt: skip
def test_names_that_cannot_be_are_refused(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 2
    assert arguments[-1] in capsys.readouterr().err


def test_an_end_that_comes_soon_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voltflow.admin.certificates.SERVER_DAYS", 20)
    run(folder)
    said = capsys.readouterr().out
    assert "edge_broker.crt ends in 19 days" in said
    assert "ca.crt ends" not in said


def test_a_password_file_is_one_that_mosquitto_would_have_made(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    command = [servers.program("mosquitto_passwd", "mosquitto"), "-c", "-b", str(path), "ann", "right"]
    subprocess.run(command, check=True, capture_output=True)
    entry = path.read_text().strip().partition(":")[2]
    assert rights.fits("right", entry)
    assert not rights.fits("wrong", entry)
    assert [len(part) for part in rights.hashed("right").split("$")] == [
        len(part) for part in entry.split("$")
    ]


def test_a_certificate_is_made_by_an_authority_only() -> None:
    authority = make_authority("a")
    other = make_server(authority, "s", ["localhost"])
    with pytest.raises(ValueError, match="PEM"):
        make_server(authority._replace(key=b"none"), "s", ["localhost"])
    assert other.certificate != make_server(authority, "s", ["localhost"]).certificate
