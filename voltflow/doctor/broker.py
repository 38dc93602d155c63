"""Is a broker there, does it take this program, and does it let it read and write what its flow does?"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from voltflow import topics
from voltflow.doctor.checks import Check, Finding, ok, problem, skipped, warning
from voltflow.doctor.probe import V311, NoMqtt, NoTls, Probe, Refused, Unanswered, Where
from voltflow.flow.flow import Flow
from voltflow.mqtt.codec import UNSUPPORTED_VERSION, reason_text
from voltflow.mqtt.options import tls_context
from voltflow.nodes.mqtt_broker import MqttBroker
from voltflow.nodes.tls_config import TlsConfig

LISTEN_S = 2.0
"""How long a message is waited for that shows that reading works; nothing hangs on it."""
SOON_S = 30 * 86400.0
"""A certificate that ends sooner is a warning."""
NOBODY = "voltflow-doctor"
"""Fleet and pack of the topics that are asked for where no pack is known."""
UNPROVEN = (20, 18, 19, 21, 2)
"""OpenSSL's verify codes of a certificate whose issuer is not trusted (X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT …)."""
EXPIRED, NOT_YET, NAME, ADDRESS = 10, 9, 62, 64


@dataclass(frozen=True)
class Access:
    """A broker as a flow uses it. `named` gives a property's name as who reads it can change it."""

    label: str
    broker: MqttBroker
    tls: TlsConfig | None
    reads: Sequence[str]
    writes: Sequence[str]
    named: Callable[[str], str]

    @property
    def address(self) -> str:
        return f"{self.broker.broker}:{self.broker.port}"


_SETTING = re.compile(r"\$\{VOLTFLOW_(?:AGENT|BRIDGE)_([A-Z_]+)_HOST\}")
_SHARED = re.compile(r"^\$share/[^/]+/")


def access_of(
    flow: Flow,
    env: Mapping[str, str],
    publishes: Mapping[str, Sequence[str]],
    same_as: Mapping[str, str] | None = None,
    subscribes: Mapping[str, Sequence[str]] | None = None,
) -> list[Access]:
    """The brokers of a flow and what it does there.

    `publishes` and `subscribes`: by node id, the topics of nodes that have no property with them; `same_as`: the settings
    to name in the place of others. A shared subscription is asked for as an ordinary one: as a member the doctor would be
    given messages.
    """
    built = flow.build(env)
    found = []
    for node_id, wired in built.items():
        broker = wired.node
        if not isinstance(broker, MqttBroker):
            continue
        users = [(i, w.node) for i, w in built.items() if getattr(w.node, "broker", None) == node_id]
        topics_of = {i: str(getattr(node, "topic", "")) for i, node in users}
        reads = [
            _SHARED.sub("", topics_of[i]) for i, node in users if node.type == "mqtt in" and topics_of[i]
        ]
        reads += [topic for i, _ in users for topic in (subscribes or {}).get(i, ())]
        writes = [topic for i, node in users if node.type != "mqtt in"
                  for topic in ([topics_of[i]] if topics_of[i] else publishes.get(i, ()))]  # fmt: skip
        tls = built.get(broker.tls) if broker.usetls and broker.tls else None
        found.append(
            Access(
                broker.label, broker, tls.node if tls and isinstance(tls.node, TlsConfig) else None,
                sorted(set(reads)), sorted({*writes, *filter(None, [broker.birthTopic])}),
                _names(str(wired.part.raw.get("broker", "")), broker.label, same_as or {}),
            )
        )  # fmt: skip
    return found


def _names(host: str, label: str, same_as: Mapping[str, str]) -> Callable[[str], str]:
    """`user` as `broker_user`, `uplink_user` … where the program's settings say it, else as the node's property."""
    match = _SETTING.fullmatch(host)
    if match:
        prefix = same_as.get(match[1].lower(), match[1].lower())
        return lambda name: f"{prefix}_{name}"
    properties = {"host": "broker", "tls": "usetls"}
    return lambda name: (
        f'the property "{properties.get(name, name)}" of {label} (voltflow flow pull, then push)'
    )


def checks(accesses: Iterable[Access]) -> Iterator[Check]:
    """One for each broker; brokers that are one and the same to the last are asked once each, with their own rights."""
    for access in accesses:
        yield Check(f"broker {access.broker.id}", f"{access.label} at {access.address}",
                    lambda access=access: look(access), limit_s=40.0)  # type: ignore[misc]  # fmt: skip


def look(access: Access) -> Iterator[Finding]:
    """What is to say of one broker."""
    broker, named = access.broker, access.named
    try:
        where = Where(broker.broker, broker.port, broker.user, broker.password, _tls(access))
    except OSError as error:  # a missing file, or one that is no certificate (ssl.SSLError)
        files = f"{named('ca')}, {named('cert')} and {named('key')}"
        yield problem(
            f"the certificates for it cannot be used: {error}", f"{files} must name readable PEM files"
        )
        return
    try:
        with Probe(where) as probe:
            user = f" as {broker.user!r}" if broker.user else " without a user"
            yield ok(f"it answers, speaks MQTT 5 and takes this program{user}")
            yield from _encryption(access, probe)
            yield from _rights(access, probe)
    except (OSError, Refused, NoMqtt, NoTls) as error:
        yield _only_v311(access, where, error) or _why(access, error)


def _only_v311(access: Access, where: Where, error: Exception) -> Finding | None:
    """What to say of a broker that refuses MQTT 5, or closes the connection on it, and speaks MQTT 3.1.1; else None."""
    unsupported = isinstance(error, Refused) and error.code == UNSUPPORTED_VERSION
    if not unsupported and not isinstance(error, Unanswered):
        return None
    try:
        with Probe(where, version=V311):
            pass
    except Refused as refused:
        return None if refused.code == UNSUPPORTED_VERSION else _why(access, refused)
    except (OSError, NoMqtt, NoTls):
        return None
    attempts = (
        ""
        if unsupported
        else "; each connection takes three attempts, as it ends those of MQTT 5 without a word"
    )
    return warning(
        f"{access.address} speaks MQTT 3.1.1 only: it works, but what it refuses and what nobody hears stays untold{attempts}",
        f"a broker with MQTT 5, for instance mosquitto 2, or its port for MQTT 5 (of `voltflow demo`: 1884): {access.named('port')}",
    )


def _tls(access: Access) -> ssl.SSLContext | None:
    if not access.broker.usetls:
        return None
    return access.tls.context() if access.tls is not None else tls_context()


def _why(access: Access, error: Exception) -> Finding:
    """A failed connection in words."""
    broker, named, address = access.broker, access.named, access.address
    place = f"{named('host')} and {named('port')}"
    if isinstance(error, ssl.SSLError | NoTls):
        return _tls_failed(access, error)
    match error:
        case socket.gaierror():
            return problem(f"the name {broker.broker!r} has no address: {error.strerror}",
                           f"correct {named('host')}, or look after the name service: getent hosts {broker.broker}")  # fmt: skip
        case TimeoutError():
            return problem(
                f"{address} does not answer", f"is it the right address ({place})? Is a firewall in between?"
            )
        case ConnectionRefusedError():
            return problem(
                f"nobody listens at {address}", f"systemctl status mosquitto there; else correct {place}"
            )
        case Refused() if error.code in (0x86, 0x87):
            who = f"the user {broker.user!r} with this password" if broker.user else "a client without a user"
            return problem(f"{address} does not take {who} ({error})",
                           f"correct {named('user')} and {named('password')}; at the broker: mosquitto_passwd")  # fmt: skip
        case Refused():
            return problem(f"{address} refuses the connection ({error})", "its log says why")
        case Unanswered() if broker.usetls and not (access.tls and access.tls.cert):
            return problem(f"{address} ends the encrypted connection at once: it asks for a client certificate, as it seems",
                           f"set {named('cert')} and {named('key')}; the broker's log says more")  # fmt: skip
        case NoMqtt() if not broker.usetls:
            return problem(f"{address} does not talk MQTT: {error}",
                           f"correct {place}; if it is a TLS port, switch {named('tls')} on")  # fmt: skip
    return problem(f"{address}: {error}", f"correct {place}; the broker's log may say more")


def _tls_failed(access: Access, error: ssl.SSLError | NoTls) -> Finding:
    named, address, said = access.named, access.address, str(error).upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(access, error)
    if "CERTIFICATE_REQUIRED" in said:
        return problem(f"{address} asks for a client certificate", f"set {named('cert')} and {named('key')}")
    if "ALERT" in said:
        return problem(
            f"{address} refuses this client's certificate: {error}",
            f"{named('cert')} must be signed by an authority that the broker trusts, and valid",
        )
    return problem(
        f"{address} does not speak TLS",
        f"switch {named('tls')} off, or set {named('port')} to the broker's TLS port, often 8883",
    )


def _untrusted(access: Access, error: ssl.SSLCertVerificationError) -> Finding:
    named, host = access.named, access.broker.broker
    certificate = f"the certificate of {access.address}"
    if error.verify_code == EXPIRED:
        return problem(
            f"{certificate} has expired",
            "renew it at the broker; is this machine's clock right (timedatectl)?",
        )
    if error.verify_code == NOT_YET:
        return problem(f"{certificate} is not valid yet", "is this machine's clock right (timedatectl)?")
    if error.verify_code in (NAME, ADDRESS):
        return problem(f"{certificate} is for another name than {host!r}",
                       f"set {named('host')} to a name in the certificate, or have it issued for {host}")  # fmt: skip
    if error.verify_code in UNPROVEN:
        trusted = access.tls.ca if access.tls is not None and access.tls.ca else "the system's authorities"
        return problem(f"{certificate} comes from an authority that is not among those in {trusted}: {error.verify_message}",
                       f"set {named('ca')} to the file with the authority that issued it")  # fmt: skip
    return problem(
        f"{certificate} is refused: {error.verify_message}",
        f"look at {named('ca')} and at the broker's chain",
    )


def _encryption(access: Access, probe: Probe) -> Iterator[Finding]:
    broker, named = access.broker, access.named
    if probe.expires_s is not None:
        left_s = probe.expires_s - time.time()
        text = f"the broker's certificate fits and is valid for {int(left_s // 86400)} more days"
        yield ok(text) if left_s > SOON_S else warning(text, "renew it at the broker")
    elif broker.usetls:
        yield warning("encrypted, but the broker's certificate is not checked: anybody could answer in its place",
                      "switch verifyservercert on in the node tls-config")  # fmt: skip
    elif broker.password and broker.broker not in ("localhost", "127.0.0.1", "::1"):
        yield warning("the password goes over the network unencrypted", f"switch {named('tls')} on")


def _rights(access: Access, probe: Probe) -> Iterator[Finding]:
    broker, refused = access.broker, []
    for topic_filter in access.reads:
        code = probe.subscribe(topic_filter)
        if code >= 0x80:
            refused.append(f"{topic_filter} with {reason_text(code)}")
    if refused:
        yield problem(f"it does not let this program read {', '.join(refused)}",
                      f"allow {_who(broker)} to read there: the broker's access rules (acl_file)")  # fmt: skip
    elif access.reads:
        if topics.STATE.filter in access.reads:  # what is kept comes at once, and names packs
            probe.subscribe(topics.STATE.filter, retained=True)
            probe.settle()
        if not probe.arrived:
            probe.listen(LISTEN_S)
        came = "messages come" if probe.arrived else f"none came within {LISTEN_S:g} s"
        yield ok(f"it grants what is read ({', '.join(access.reads)}); {came}")
    yield from _writing(access, probe)


def _who(broker: MqttBroker) -> str:
    return f"the user {broker.user!r}" if broker.user else "clients without a user"


def _writing(access: Access, probe: Probe) -> Iterator[Finding]:
    wanted = list(_of_a_pack(access.writes, probe.arrived))
    if not wanted:
        return
    early = probe.passes_on_early()
    if early is not False:
        why = ("this broker passes a message on before it is told to" if early else
               "whether this broker would pass a question on is not known")  # fmt: skip
        fix = (
            ""
            if early
            else f"allow {_who(access.broker)} to read and write {topics.DOCTOR_FILTER}, which nothing else uses"
        )
        yield skipped(f"{why}: not asked whether it may be written to {', '.join(wanted)}", fix)
        return
    codes = {topic: probe.publish(topic) for topic in wanted}
    if denied := {topic: code for topic, code in codes.items() if code >= 0x80}:
        texts = ", ".join(f"{topic} with {reason_text(code)}" for topic, code in denied.items())
        yield problem(f"it does not let this program publish {texts}",
                      f"allow {_who(access.broker)} to write there: the broker's access rules (acl_file)")  # fmt: skip
    else:
        yield ok(f"it takes what is published ({', '.join(wanted)}); asked without anybody hearing it")


def _of_a_pack(writes: Iterable[str], arrived: Iterable[str]) -> Iterator[str]:
    """Topics with `+` for fleet and pack as those of a pack that was heard of, because rights may be by fleet."""
    known = next(filter(None, map(topics.parse, arrived)), topics.PackTopic(NOBODY, NOBODY, ""))
    for topic in writes:
        whole = topic.replace("ev/v1/+/+/", f"ev/v1/{known.fleet}/{known.pack}/").replace("+", NOBODY)
        if "#" not in whole:
            yield whole
