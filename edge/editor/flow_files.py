"""The flow on disk: its file, its credentials, of each the one before; what is used when one of them is broken.

    flows.json   .flows.json.backup   flows_cred.json   .flows_cred.json.backup      (names as in Node-RED)

A file is replaced by renaming what is already safe beside it, so it is never half there.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge.editor.trial import CRASHES, TRIAL_S, Trial
from voltflow import kept_file
from voltflow.admin.credentials import (
    CompleteFlow,
    Credentials,
    CredentialsError,
    cut,
    decrypt,
    encrypt,
    plain_credentials,
)
from voltflow.flow.expand import RawNode
from voltflow.flow.flow import Flow, FlowError, Problem
from voltflow.kept_file import Prepared, Step

log = logging.getLogger(__name__)

STEPS: Final[tuple[Step, ...]] = ()
"""Each makes the nodes of one version of our flows from those of the version before, and leaves those alone that are of the
newer one already. There is one version so far."""
FLOW_MODE: Final = 0o644
Check = Callable[[Flow], list[Problem]]


@dataclass(frozen=True)
class Notice:
    """Something about the flow that people should know: `code` for programs, as of `/api/health`."""

    code: str
    text: str


class CredentialSecret:
    """What credentials are encrypted with: given by a setting, or made at the first need and kept in a file."""

    def __init__(self, given: str, path: Path) -> None:
        self._given, self._path = given, path

    def __repr__(self) -> str:
        return "CredentialSecret(***)"

    def all(self) -> Iterator[str]:
        """The one in use first; the generated one also where a setting has come later."""
        if self._given:
            yield self._given
        if kept := self._read():
            yield kept

    def get(self) -> str:
        """The one in use, made if need be; raises OSError."""
        found = next(self.all(), "")
        if not found:
            found = secrets.token_hex(32)
            kept_file.write(self._path, found.encode())
            log.info("credentials are encrypted with a new secret, kept in '%s'", self._path)
        return found

    def _read(self) -> str:
        try:
            return self._path.read_text("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            log.error("'%s' cannot be read: %s", self._path, error)  # noqa: TRY400 - the message says it all
            return ""


class FlowFiles:
    """The files of one flow. `default` is used, and not written, until something is deployed; `adapt` is applied to what
    is read (what the gateway's settings switch off)."""

    def __init__(
        self,
        path: Path,
        *,
        secret: CredentialSecret | None = None,
        default: Path | None = None,
        adapt: Callable[[list[RawNode]], None] = lambda _: None,
        steps: Sequence[Step] = STEPS,
    ) -> None:
        self.path, self.backup = path, _backup_of(path)
        self.credentials_path = path.with_name(f"{path.stem}_cred{path.suffix}")
        self.notices: list[Notice] = []
        """What was not as it should be at the start, until the next deploy."""
        self.trial = Trial(path)
        self._secret = secret or CredentialSecret("", path.with_name("credential_secret"))
        self._default, self._adapt, self._steps = default, adapt, steps
        self._in_use = self.path
        self._unreadable = False

    # -- read -----------------------------------------------------------------------------------------------------

    def open(self, check: Check) -> CompleteFlow:
        """The flow to start with: the file's, or the one before where that is broken or has crashed too often.

        Raises FlowError, OSError or UnicodeDecodeError where neither can be read.
        """
        self.notices, self._in_use = [], self.path
        flow: CompleteFlow | None = None
        failure: Exception | None = None
        try:
            flow = self.load()
            self.trial.start(flow.rev)
            if errors := _errors(check(flow)):
                failure = FlowError(errors)
        except (FlowError, OSError, UnicodeDecodeError) as error:
            failure = error
        if (failure is not None or self.trial.failed) and (before := self._before(check)) is not None:
            self._tell_of_backup(failure)
            return before
        if flow is None:
            assert failure is not None
            raise failure
        return flow  # where it cannot run, the engine says why

    def load(self) -> CompleteFlow:
        """What the file says now; raises FlowError, OSError or UnicodeDecodeError."""
        if self._default is not None and not self.path.exists():
            return self._load(self._default, self._credentials(self.credentials_path), len(self._steps) + 1)
        return self._load(self.path, self._credentials_or_backup(), self._version())

    def _before(self, check: Check) -> CompleteFlow | None:
        """The flow before this one, if it can run."""
        try:
            credentials = self._credentials(_backup_of(self.credentials_path))
            flow = self._load(self.backup, credentials, 1)  # it may be older than the file
        except FileNotFoundError:
            return None
        except (FlowError, OSError, UnicodeDecodeError, CredentialsError) as error:
            log.error("'%s' cannot be used either: %s", self.backup, reason_of(error))  # noqa: TRY400 - says it all
            return None
        if errors := _errors(check(flow)):
            log.error("'%s' cannot be used either: %s", self.backup, FlowError(errors))
            return None
        self._in_use = self.backup
        return flow

    def _load(self, path: Path, credentials: Credentials, version: int) -> CompleteFlow:
        text = path.read_text("utf-8-sig")
        nodes = kept_file.migrated(Flow.parse(text).nodes, self._steps, version)
        self._adapt(nodes)
        bare, all_credentials = cut(nodes, credentials)
        return CompleteFlow(bare, all_credentials, text)

    def _version(self) -> int:
        """Of our flows, in a file of its own because a Node-RED's flow has no place for it."""
        try:
            return int(self._version_path.read_text())
        except (OSError, ValueError):
            return 1

    @property
    def _version_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.version")

    def _credentials_or_backup(self) -> Credentials:
        try:
            return self._credentials(self.credentials_path)
        except (OSError, CredentialsError) as error:
            self._unreadable, reason = True, reason_of(error)
        path = _backup_of(self.credentials_path)
        try:
            found, used = self._credentials(path), f"those of the deploy before ('{path.name}') are used"
        except (OSError, CredentialsError):
            found, used = {}, "nodes run without their credentials"
        if not found:
            used = "nodes run without their credentials"
        text = f"'{self.credentials_path}' cannot be used: {reason}; {used}: set credential_secret, or enter them again"
        self._notice("credentials_unreadable", text)
        return found

    def _credentials(self, path: Path) -> Credentials:
        """Raises OSError and CredentialsError."""
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            raise CredentialsError("it is not JSON") from None
        return self.opened(document)

    def opened(self, document: Any) -> Credentials:
        """The credentials of a document as the file has it, encrypted or not; raises CredentialsError."""
        plain = plain_credentials(document)
        if plain is not None:
            return plain
        failure = CredentialsError("there is no secret to decrypt it with")
        for secret in self._secret.all():
            try:
                return decrypt(document, secret)
            except CredentialsError as error:
                failure = error
        raise failure

    def _tell_of_backup(self, failure: Exception | None) -> None:
        goes_on = f"the gateway runs the flow before it ('{self.backup.name}'); deploy a repaired one"
        if failure is not None:
            self._notice(
                "flow_fallback", f"flow file '{self.path}' cannot be used: {reason_of(failure)}; {goes_on}"
            )
        else:
            text = f"the flow in '{self.path}' ended the gateway {CRASHES} times within {TRIAL_S:g} s"
            self._notice("safe_mode", f"safe mode: {text}; {goes_on}")

    def _notice(self, code: str, text: str) -> None:
        self.notices.append(Notice(code, text))
        log.error("%s", text)

    # -- write ----------------------------------------------------------------------------------------------------

    def prepare(self, flow: CompleteFlow, before: Credentials) -> Pending:
        """Write the flow beside the files; raises OSError, and then nothing has changed."""
        return Pending(self, flow, before)

    @property
    def on_trial(self) -> bool:
        """Whether what the file holds runs, and has not yet proved that it lets the gateway live."""
        return bool(self.trial.rev) and not self.trial.failed and self._in_use == self.path

    def keep_before(self) -> None:
        """Make what the files hold the backup; what is known to be faulty is kept aside, and the backup stays."""
        if not self.path.exists():
            if self._default is not None:
                kept_file.write(self.backup, self._default.read_bytes(), mode=FLOW_MODE)
        elif self._in_use != self.path or self.trial.crashes:
            _copy(self.path, f"{self.path.name}.faulty")
        else:
            _copy(self.path, self.backup.name)
            if not self._unreadable:
                _copy(self.credentials_path, _backup_of(self.credentials_path).name, mode=0o600)
        if self._unreadable:
            _copy(self.credentials_path, f"{self.credentials_path.name}.unreadable", mode=0o600)
        if (version := self._version()) <= len(self._steps):
            _copy(self.path, f"{self.path.name}.v{version}")

    def has_taken(self, flow: CompleteFlow) -> None:
        """The files hold this flow now, and it runs."""
        self.notices, self._in_use, self._unreadable = [], self.path, False
        if self._version() <= len(self._steps):
            kept_file.write(self._version_path, str(len(self._steps) + 1).encode(), mode=FLOW_MODE)
        self.trial.deployed(flow.rev)

    def sealed(self, credentials: Credentials) -> bytes:
        """The credentials' file; raises OSError."""
        return json.dumps(encrypt(credentials, self._secret.get())).encode()


class Pending:
    """A flow that is safe beside the files and not in their place yet."""

    def __init__(self, files: FlowFiles, flow: CompleteFlow, before: Credentials) -> None:
        self._files, self._flow = files, flow
        self._all = {**before, **flow.credentials}
        """Those of nodes that go, too: a power cut between the two files must not leave the old flow without its own."""
        self._flow_file = Prepared(files.path, f"{flow.dumps()}\n".encode(), mode=FLOW_MODE)
        self._credentials_file: Prepared | None = None
        if self._all or files.credentials_path.exists():
            try:
                self._credentials_file = Prepared(files.credentials_path, files.sealed(self._all))
            except OSError:
                self._flow_file.give_up()
                raise

    def take_place(self) -> None:
        """Durably; raises OSError, and then the flow file is the old one."""
        files = self._files
        files.keep_before()
        if self._credentials_file is not None:
            self._credentials_file.take_place()
        self._flow_file.take_place()
        if self._all != self._flow.credentials:
            kept_file.write(files.credentials_path, files.sealed(self._flow.credentials))
        files.has_taken(self._flow)

    def give_up(self) -> None:
        for prepared in (self._flow_file, self._credentials_file):
            if prepared is not None:
                prepared.give_up()


def _copy(path: Path, name: str, *, mode: int = FLOW_MODE) -> None:
    """Under another name beside it; nothing where it is not there."""
    if path.exists():
        kept_file.write(path.with_name(name), path.read_bytes(), mode=mode)


def _backup_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.backup")


def _errors(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity == "error"]


def reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
