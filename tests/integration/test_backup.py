"""A real gateway in one file, and back; what is refused, and changes nothing."""

import errno
import gzip
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.programs import Agent, device, finish
from voltflow.admin.backup import FORMAT, BackupError, Places, write
from voltflow.admin.restoring import restore
from voltflow.admin.users import make_user, write_users
from voltflow.cli import main
from voltflow.state.file import CLEAN_FILE, FILE

WAIT_S = 120.0


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder without settings files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOLTFLOW_CONFIG", raising=False)
    return tmp_path


def folder_of_a_gateway(folder: Path) -> Places:
    """As one leaves it that was stopped, with things outside its state folder too."""
    state, other = folder / "state", folder / "etc"
    files = {
        "state/state.clean.bin": b"twins", "state/spool/uplink/1.log": b"\0" * 100_000, "state/held.sqlite": b"held",
        "state/credential_secret": b"geheim", "state/tokens.json": b"{}", "state/lock": b"", "state/files/a/b.csv": b"1,2",
        "etc/flows.json": b"[]", "etc/flows_cred.json": b"{}", "etc/.flows.json.backup": b"[1]", "etc/users.json": b"{}",
        "etc/voltflow.toml": b'[agent]\nbroker_password = "geheim"\n',
    }  # fmt: skip
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
    return Places(state, other / "flows.json", other / "users.json", settings=other / "voltflow.toml")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_gateway_goes_on_from_its_backup(quiet: Path, mosquitto: servers.Mosquitto, unique: str) -> None:
    """Twins, users and flow are those of the backup; a running gateway is left alone; what was there is kept."""
    state, out = quiet / "state", quiet / "gw.backup"
    command = ["backup", "--state-dir", str(state), "--out"]
    with Agent(mosquitto, state) as agent:
        with device(
            mosquitto, "run", "--fleet", unique, "--packs", "3", "--hz", "10", "--seconds", "3"
        ) as publishing:
            finish(publishing)
        servers.wait_until(lambda: agent.get(f"/api/packs?fleet={unique}")["total"] == 3, "the packs", WAIT_S)
        write_users(state / "users.json", [make_user("ann", "x" * 60, ["read"])])
        assert main([*command, str(quiet / "refused.backup")]) == 2
        assert main([*command, str(quiet / "live.backup"), "--live"]) == 0
        assert main(["restore", "--state-dir", str(state), str(quiet / "live.backup")]) == 2
        soc = {row["name"]: row["soc_est_pct"] for row in agent.get(f"/api/packs?fleet={unique}")["packs"]}
    assert main([*command, str(out)]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    (state / "users.json").unlink()
    (state / CLEAN_FILE).write_bytes(b"spoilt")
    assert main(["restore", "--state-dir", str(state), str(out)]) == 0
    assert (state / FILE).is_file()
    assert not (state / CLEAN_FILE).exists(), "the gateway may have gone on after the backup"
    (before,) = state.glob(".before-*")
    assert (before / CLEAN_FILE).read_bytes() == b"spoilt"
    with Agent(mosquitto, state) as agent:
        assert re.search(r"state of \d+ packs ", agent.log)
        found = {row["name"]: row["soc_est_pct"] for row in agent.get(f"/api/packs?fleet={unique}")["packs"]}
        assert found == soc
        assert "ann" in (state / "users.json").read_text()


def test_everything_comes_back_where_it_was(tmp_path: Path) -> None:
    places = folder_of_a_gateway(tmp_path)
    wanted = content(tmp_path)
    manifest = write(places, tmp_path / "gw.backup")
    assert {entry.name.split("/")[0] for entry in manifest.files} == {"state", "flow", "users", "settings"}
    new, etc = tmp_path / "new", tmp_path / "new" / "etc"
    other = Places(new / "state", etc / "flows.json", etc / "users.json", settings=etc / "voltflow.toml")
    restore(tmp_path / "gw.backup", other)
    found = content(tmp_path / "new")
    found.pop("state/lock")
    assert found.pop("state/state.bin") == wanted.pop("state/state.clean.bin")
    for name in ("state/tokens.json", "state/lock"):
        wanted.pop(name)
    assert found == wanted
    assert stat.S_IMODE((other.state / "credential_secret").stat().st_mode) == 0o600


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system than pytest's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_what_lies_on_another_disk_is_restored_there(tmp_path: Path, other_disk: Path) -> None:
    assert other_disk.stat().st_dev != tmp_path.stat().st_dev
    folder_of_a_gateway(tmp_path)
    (tmp_path / "state").rename(tmp_path / "here")
    shutil.move(tmp_path / "etc", other_disk)
    shutil.move(tmp_path / "here" / "files", other_disk)
    etc = other_disk / "etc"
    places = Places(tmp_path / "here", etc / "flows.json", etc / "users.json", other_disk / "files")
    write(places, tmp_path / "gw.backup")
    wanted = content(other_disk)
    for path in (etc / "flows.json", etc / "users.json", other_disk / "files" / "a" / "b.csv"):
        path.write_text("changed since")
    _, done = restore(tmp_path / "gw.backup", places)
    found = content(other_disk)
    assert {name: found[name] for name in wanted} == wanted
    kept = sorted(name for name in found if found[name] == b"changed since")
    assert [re.sub(r"\.before-\w+", ".before", name) for name in kept] == [
        "etc/flows.json.before", "etc/users.json.before", "files/.before/a/b.csv",
    ]  # fmt: skip
    assert len(done) == len(
        {"here", "files", "flows.json", "flows_cred.json", ".flows.json.backup", "users.json"}
    )
    assert not [path for path in (*tmp_path.rglob("*"), *other_disk.rglob("*")) if ".restoring" in path.name]


def in_container(folder: Path, *writable: Path) -> subprocess.CompletedProcess[str]:
    """`voltflow restore` where nothing but these can be written, each a mount point, as in a container."""
    mounts = [part for path in writable for part in ("--bind", str(path), str(path))]
    etc = folder / "etc"
    etc.mkdir(exist_ok=True)
    config = etc / "gateway.toml"
    config.write_text(f'[agent]\nflow = "{etc / "flows.json"}"\nusers_file = "{etc / "users.json"}"\n')
    command = [sys.executable, "-m", "voltflow.cli", "restore", "-", "--config", str(config), "--state-dir"]
    sandbox = [servers.program("bwrap", "bubblewrap"), "--ro-bind", "/", "/", "--dev", "/dev", *mounts]
    with (folder / "gw.backup").open("rb") as file:
        return subprocess.run(
            [*sandbox, *command, str(folder / "state")],
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
        )


def test_restore_into_a_volume_of_a_container(tmp_path: Path) -> None:
    """It is a mount point and nothing beside it can be written."""
    places = folder_of_a_gateway(tmp_path)
    shutil.rmtree(tmp_path / "etc")
    write(places, tmp_path / "gw.backup")
    shutil.copy(tmp_path / "gw.backup", places.state / "an-earlier.backup")
    (places.state / "held.sqlite").write_bytes(b"since")
    done = in_container(tmp_path, places.state)
    assert done.returncode == 0, done.stderr
    found = content(places.state)
    assert found["held.sqlite"] == b"held"
    assert found["files/a/b.csv"] == b"1,2"
    assert (places.state / "an-earlier.backup").is_file()
    (before,) = places.state.glob(".before-*")
    assert (before / "held.sqlite").read_bytes() == b"since"
    assert not (places.state / ".restoring").exists()


def test_restore_that_fails_half_way_is_taken_back(tmp_path: Path) -> None:
    """The users' file is a mount point of its own, so it cannot be renamed: the last thing but one."""
    places = folder_of_a_gateway(tmp_path)
    write(places, tmp_path / "gw.backup")
    for name in ("state/held.sqlite", "etc/flows.json", "etc/users.json"):
        (tmp_path / name).write_text("changed since")
    before = content(tmp_path)
    done = in_container(tmp_path, places.state, tmp_path / "etc", tmp_path / "etc" / "users.json")
    assert done.returncode == 2
    assert "everything is as it was" in done.stderr
    after = content(tmp_path)
    after["state/lock"] = before["state/lock"]
    del after["etc/gateway.toml"]
    assert after == before
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_restored_files_belong_to_whom_the_folder_belongs(tmp_path: Path, other_disk: Path) -> None:
    """`sudo voltflow restore` on a new machine, where the service's user owns the folders and nothing is in them."""
    write(folder_of_a_gateway(tmp_path), tmp_path / "gw.backup")
    new, etc = other_disk / "state", other_disk / "etc"
    for folder in (new, etc):
        folder.mkdir()
        os.chown(folder, 12345, 12346)
    restore(tmp_path / "gw.backup", Places(new, etc / "flows.json", etc / "users.json"))
    owners = {(path.name, path.stat().st_uid, path.stat().st_gid) for path in other_disk.rglob("*")}
    assert ("lock", 12345, 12346) in owners
    assert {owner[1:] for owner in owners} == {(12345, 12346)}


def test_settings_of_this_machine_stay(tmp_path: Path) -> None:
    places = folder_of_a_gateway(tmp_path)
    write(places, tmp_path / "gw.backup")
    assert places.settings is not None
    places.settings.write_text("[agent]\n")
    restore(tmp_path / "gw.backup", places)
    assert places.settings.read_text() == "[agent]\n"
    assert "geheim" in places.settings.with_name("voltflow.toml.from-backup").read_text()


def test_without_credentials_no_secret_is_in_it(tmp_path: Path) -> None:
    write(folder_of_a_gateway(tmp_path), tmp_path / "gw.backup", credentials=False)
    with tarfile.open(tmp_path / "gw.backup") as tar:
        names = tar.getnames()
        assert not any(b"geheim" in (tar.extractfile(name) or io.BytesIO()).read() for name in names)
    assert {"state/spool/uplink/1.log", "flow/flows.json"} <= set(names)
    assert not any("cred" in name or "users" in name for name in names)


def test_backup_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "gw.backup").write_text("mine")
    with pytest.raises(BackupError, match="is there already"):
        write(folder_of_a_gateway(tmp_path), tmp_path / "gw.backup")
    assert (tmp_path / "gw.backup").read_text() == "mine"


def test_a_backup_has_no_earlier_one_in_it(tmp_path: Path) -> None:
    """In a container the state folder is the only one that takes a file."""
    places = folder_of_a_gateway(tmp_path)
    (places.state / "log.gz").write_bytes(gzip.compress(b"no backup"))
    (places.state / ".before-20260301T120000Z").mkdir()
    (places.state / ".before-20260301T120000Z" / "state.bin").write_bytes(b"put aside by a restore")
    first, second = (
        [entry.name for entry in write(places, places.state / name).files] for name in ("gw.backup", "2")
    )
    assert first == second
    assert "state/log.gz" in first
    assert not any("before" in name for name in first)


@pytest.mark.parametrize("taken", [False, True])
def test_a_file_system_without_hard_links_takes_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """As a USB stick with vfat answers, which cannot be had everywhere; what came there meanwhile stays."""
    out = tmp_path / "gw.backup"

    def link(source: Path, target: Path) -> None:
        if taken:
            out.write_text("of somebody else")
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    places = folder_of_a_gateway(tmp_path)
    monkeypatch.setattr("os.link", link)
    if taken:
        with pytest.raises(FileExistsError):
            write(places, out)
        assert out.read_text() == "of somebody else"
    else:
        write(places, out)
        restore(out, places)
    assert not out.with_name("gw.backup.new").exists()


def repacked(source: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """The backup with members changed or left out, as a whole file."""
    with tarfile.open(source) as tar:
        members = [(m.name, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar]
    with tarfile.open(source, "w:gz") as tar:
        for item in members:
            if new := change(*item):
                info = tarfile.TarInfo(new[0])
                info.size = len(new[1])
                tar.addfile(info, io.BytesIO(new[1]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n, d: (n, d.replace(b"twins", b"twinz")), "is damaged: state/state.clean.bin"),
        (lambda n, d: None if n == "state/held.sqlite" else (n, d), "is damaged: state/held.sqlite"),
        (lambda n, d: None if n == "manifest.json" else (n, d), "is cut off"),
        (lambda n, d: (n.replace("state/held", "../held"), d), "something in it that no backup has"),
        (lambda n, d: (n.replace("voltflow.backup", "x"), d), "is no backup of a gateway"),
        (lambda n, d: (n, d.replace(b'"program":"', b'"program":"9')), "upgrade first"),
        (lambda n, d: (n, d.replace(f'"format":{FORMAT}'.encode(), b'"format":99')), "upgrade first"),
    ],
    ids=["damaged", "incomplete", "cut", "escaping", "foreign", "newer-program", "newer-format"],
)
def test_what_cannot_be_trusted_is_refused_and_changes_nothing(
    tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], says: str
) -> None:
    places = folder_of_a_gateway(tmp_path)
    write(places, tmp_path / "gw.backup")
    repacked(tmp_path / "gw.backup", change)
    before = content(tmp_path)
    with pytest.raises(BackupError, match=says):
        restore(tmp_path / "gw.backup", places)
    after = content(tmp_path)
    after["state/lock"] = before["state/lock"]  # it says who held it last
    assert after == before


@pytest.mark.parametrize("cut", [10, 300, 600])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    places = folder_of_a_gateway(tmp_path)
    write(places, tmp_path / "gw.backup")
    (tmp_path / "gw.backup").write_bytes((tmp_path / "gw.backup").read_bytes()[:cut])
    with pytest.raises(BackupError, match="take another copy"):
        restore(tmp_path / "gw.backup", places)
    assert (places.state / "state.clean.bin").read_bytes() == b"twins"
