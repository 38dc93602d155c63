"""What mends each thing that `/api/health` says is wrong, in words for whoever stands before the gateway."""

from __future__ import annotations

from typing import Final

_DISK: Final = "make room on the disk, or mend it, and look who owns the folder: df -h, dmesg, ls -ld; it goes on by itself"
_DEPLOY: Final = "open the flow editor, look at what is marked and deploy a repaired flow"

FIXES: Final[dict[str, str]] = {
    "broker_not_connected": "see that the broker runs (systemctl status mosquitto) and that address, user and password are "
    "right (edge-agent config); it connects by itself",
    "subscription_refused": "let this gateway's user read the topic: the broker's access list (acl_file) says who may",
    "sink_waiting": "nothing is lost and it goes on by itself; if it lasts, look at the network and at the far side",
    "spool_backlog": "nothing to do while it shrinks; if it grows, the uplink is too slow or the far side away",
    "spool_blocked": f"{_DISK}; where spool_protected_mb is used up, bring the far side back or raise it",
    "spool_orphaned": "give a sink of the flow the id in the folder's name and a spool, and it delivers what is there; or "
    "delete the folder if nobody wants that",
    "held_not_written": _DISK,
    "held_full": "let nodes hold less: a shorter delay, a smaller group, or bring what they wait for",
    "held_orphaned": "give a node that holds messages the id that is named, or delete the file if nobody wants them",
    "stalled": "the log names node and message (journalctl -u edge-agent); then restart: systemctl restart edge-agent",
    "flow_stopped": "start it in the flow editor, in the menu of the button Deploy",
    "flow_not_saved": _DISK,
    "flow_fallback": _DEPLOY,
    "safe_mode": _DEPLOY,
    "credentials_unreadable": "set the credential_secret with which they were written, or enter them again in the flow editor "
    "and deploy",
    "users_unreadable": "repair the file that is named, or put a copy of it back; who was logged in stays so",
    "clock_unknown": "let the gateway reach a time server (timedatectl says whether it does), or give it a clock with a battery",
    "clock_suspect": "see which clock is right, the gateway's (timedatectl) or the devices', and set the other one",
    "state_not_written": _DISK,
    "no_telemetry": "see whether devices publish (mosquitto_sub -v -t 'ev/v1/+/+/telemetry'): if not, look at them and "
    "their network; if so, at the dead letters, which say what is wrong with it",
    "model_missing": "edge-agent check says why; give the flow an onnx node with this model, or models_dir the model's files",
}
"""By code of a reason."""
