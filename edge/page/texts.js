// Every English text of the page, by key. `t("key", {n: 3})` fills in {n}; a key without a text is shown as it is.

export const TEXTS = {
  "skip": "Skip to the content",
  "nav.fleet": "Fleet", "nav.alerts": "Alerts", "nav.gateway": "Gateway",
  "theme.system": "Auto", "theme.light": "Light", "theme.dark": "Dark", "theme.label": "Colours: {now}. Press to change.",
  "links.openapi": "OpenAPI document", "links.metrics": "Prometheus metrics", "links.editor": "Flow editor", "links.licences": "Licences",
  "unavailable": "This gateway's software does not tell that yet.",

  "health.connecting": "connecting …", "health.ok": "ok", "health.degraded": "degraded", "health.unhealthy": "unhealthy", "health.lost": "no connection", "health.locked": "locked",
  "lost.since": "Connection to the gateway lost. What you see is from {at}; trying again …",
  "lost.never": "The gateway does not answer; trying again …",
  "login.label": "This gateway asks for its token (setting api_token)", "login.open": "Open", "login.who": "This gateway has users: log in to change something.", "login.user": "User", "login.password": "Password", "login.go": "Log in", "login.wrong": "That is not this gateway's token.",

  "packs.one": "1 pack", "packs.many": "{n} packs",
  "wrong.title": "What is wrong", "wrong.nothing": "Nothing is wrong.", "wrong.fix": "What to do:", "wrong.request": "A part of this view cannot be shown: {error}", "wrong.no_message": "nothing received yet", "wrong.newest": "newest message {age} ago",
  "wrong.acknowledged.one": "1 alert acknowledged", "wrong.acknowledged.many": "{n} alerts acknowledged",
  "wrong.kinds.one": "1 more kind of alert", "wrong.kinds.many": "{n} more kinds of alerts",
  "wrong.more_packs.one": "and 1 more pack", "wrong.more_packs.many": "and {n} more packs",
  "wrong.critical.one": "1 critical alert", "wrong.critical.many": "{n} critical alerts", "wrong.warning.one": "1 warning", "wrong.warning.many": "{n} warnings",
  "wrong.info.one": "1 note", "wrong.info.many": "{n} notes",
  "severity.critical": "Critical", "severity.warning": "Warning", "severity.info": "Info",

  "fleet.title": "Fleet", "fleet.list": "Packs", "fleet.search": "Search packs by name; Enter opens the first", "fleet.search_hint": "Search packs", "fleet.sort": "Order",
  "fleet.loading": "loading …", "fleet.found": "{n} found", "fleet.none_found": "No pack is called “{search}”.", "fleet.none": "No pack has sent anything yet.",
  "sort.worry": "most worrying first", "sort.name": "name", "sort.newest": "newest message", "sort.soc": "lowest charge", "sort.temperature": "hottest", "sort.soh": "lowest health",
  "sort.rul": "fewest cycles left", "sort.failure": "likeliest failure",
  "column.pack": "Pack", "column.state": "State", "column.soc": "Charge", "column.temp": "Hottest", "column.temp_ahead": "in 10 min", "column.soh": "Health", "column.rul": "Cycles left",
  "column.failure": "Failure 7 d", "column.power": "Power", "column.why": "Why it is up here",
  "short.soh": "SoH", "short.failure": "fault",
  "state.offline": "offline", "state.silent": "silent",
  "counts.label": "How the packs are", "counts.poor": "poor", "counts.fair": "fair", "counts.good": "good", "counts.unknown": "not known", "counts.of_them": "of them",
  "counts.silent": "silent", "counts.offline": "offline", "counts.alerts": "open alerts",
  "quantity.soc": "Charge", "quantity.temperature": "Hottest cell", "quantity.soh": "Health, predicted", "quantity.rul": "Cycles left", "quantity.failure": "Failure in 7 days",
  "grade.good": "good", "grade.fair": "fair", "grade.poor": "poor", "grade.unknown": "not known",

  "pack.back": "‹ Fleet", "pack.charts": "Actual and predicted", "pack.plate": "Nameplate and counters", "pack.time": "device time {at}", "pack.no_telemetry": "no telemetry yet",
  "pack.ahead": "{value} in 10 minutes", "pack.twin": "twin: {value}", "pack.failure": "a critical fault", "pack.interval": "{low} – {high}, 80 % sure", "pack.cells": "{series} in series, {parallel} in parallel",
  "pack.clock_ahead": "{time} ahead of the gateway's", "pack.clock_behind": "{time} behind the gateway's",
  "pack.late.one": "1 late", "pack.late.many": "{n} late",
  "fact.voltage": "Voltage", "fact.current": "Current", "fact.power": "Power", "fact.temp_ahead": "Hottest in 10 min", "fact.soc_twin": "Charge by the twin",
  "fact.chemistry": "Chemistry", "fact.arrangement": "Cells", "fact.capacity": "Rated capacity", "fact.firmware": "Firmware", "fact.cycles": "Full cycles so far", "fact.isolation": "Isolation",
  "fact.odometer": "Odometer", "fact.messages": "Messages", "fact.clock": "Its clock",

  "charts.away": "The charts did not come: the gateway was not reached. They are asked for again when it is.",
  "charts.missing": "The charts are not installed. Where the agent runs:",
  "chart.none": "No values yet.", "chart.temperature": "Hottest cell", "chart.soc": "State of charge", "chart.soh": "State of health", "chart.rul": "Cycles to 80 % of capacity", "chart.voltage": "Voltage",
  "chart.failure": "Failure in 7 days", "chart.current": "Current, positive into the battery", "chart.power": "Power, positive into the battery",
  "chart.summary": "{title}, from {from} to {to}. {lines}.", "chart.line": "{label}: now {now} {unit}, between {low} and {high}", "chart.line_none": "{label}: no values",
  "line.measured": "measured", "line.ahead": "predicted 10 min before", "line.bms": "BMS", "line.twin": "twin", "line.predicted": "predicted", "line.pack": "pack", "line.interval": "interval",
  "unit.cycles": "cycles",
  "zoom.label": "Zoom of all charts", "zoom.reset": "All", "zoom.in": "Zoom in", "zoom.out": "Zoom out",
  "compare.title": "Predictions beside what turned out to be", "compare.quantity": "Quantity", "compare.predicted": "Predicted", "compare.actual": "Actual", "compare.difference": "Difference",
  "compare.accuracy": "Accuracy", "compare.note": "Note", "compare.soh": "State of health", "compare.temperature": "Hottest cell, 10 min ahead", "compare.rul": "Cycles to 80 %", "compare.failure": "Failure in 7 days",
  "cells.title": "Cells", "cells.view": "View of the cells", "cells.by": "Coloured by", "cells.map": "Map", "cells.3d": "3D", "cells.voltage": "Voltage", "cells.temperature": "Temperature", "cells.charge": "Charge",
  "cells.none": "No values of single cells yet.", "cells.summary": "Lowest is cell {low} with {low_value}, highest cell {high} with {high_value}.", "cells.spread": "Spread {spread} mV.", "cells.at": "Device time {at}.",
  "cells.keys": "Arrow keys go from cell to cell.", "cells.cell": "Cell {n}: {value}", "cells.no_3d": "The 3D view cannot be shown: {error}", "cells.away": "The 3D view did not come: the gateway was not reached. It is asked for again.",
  "sessions.title": "Sessions", "sessions.none": "No session yet.", "sessions.kind": "Kind", "sessions.start": "Began", "sessions.length": "Took", "sessions.soc": "Charge", "sessions.energy": "Energy",
  "sessions.hottest": "Hottest", "sessions.soh": "Health measured", "sessions.note": "Note", "sessions.running": "running", "kind.charge": "charge", "kind.discharge": "discharge",

  "alerts.title": "Alerts", "alerts.none": "No alerts.", "alerts.active": "{n} active", "alerts.cleared": "Over", "alerts.value": "{value}, limit {limit}", "alerts.now": "{now} now", "alerts.heard": "{now} when last heard", "alerts.worst": "{worst} at the worst", "alerts.then": "{then} when raised", "alerts.since": "since {from}",
  "alerts.from_to": "{from} to {to}", "alerts.acknowledge": "Acknowledge", "alerts.take_back": "Take back", "alerts.note": "Note: what you found or did", "alerts.cancel": "Cancel",
  "alerts.cannot": "This gateway cannot keep acknowledgements, or the alert is over.", "alerts.seen_by": "Acknowledged by {by}, {at}", "alerts.seen": "Acknowledged {at}",
  "alerts.filter": "Which alerts", "alerts.only_all": "all", "alerts.only_open": "nobody has seen", "alerts.only_critical": "critical",

  "gateway.title": "Gateway", "tile.in": "Messages in", "tile.out": "Messages out", "tile.waits": "Waits on disk", "tile.packs": "Packs", "tile.messages": "Messages since start", "tile.up": "Up", "tile.version": "Version",
  "flow.title": "Flow", "flow.node": "Node", "flow.rate": "Rate", "flow.messages": "Messages", "flow.failed": "Failed", "flow.waiting": "Waiting", "flow.on_disk": "On disk", "flow.cost": "µs/message",
  "flow.state": "State", "flow.ok": "ok", "flow.backlog": "sending the backlog", "flow.away": "away for {time}: {error}", "flow.revision": "revision {revision}", "flow.under_way": "{n} batches under way",
  "flow.stalls.one": "stalled once", "flow.stalls.many": "stalled {n} times", "flow.dropped": "dropped {n} ({reason})", "flow.stopped": "The flow is stopped: somebody stopped it in the editor.",
  "uplink.title": "Uplink and spool", "uplink.waits": "{n} messages wait on disk ({size})", "uplink.nothing": "nothing waits on disk", "uplink.connected": "is connected to {address}",
  "uplink.not_connected": "is not connected: {error}", "uplink.starting": "starting", "uplink.broker": "Broker", "uplink.counts": "{received} received, {published} sent, {confirmed} confirmed",
  "uplink.reconnects.one": "1 reconnect", "uplink.reconnects.many": "{n} reconnects", "uplink.memory": "{n} in memory", "uplink.disk": "{n} on disk ({size})", "uplink.oldest": "the oldest for {age}",
  "uplink.lost": "{n} given up ({reason})", "uplink.takes": "takes messages",
  "models.title": "Models", "models.errors": "temperature, last {n} compared: {error} °C mean absolute error", "models.predictions": "{n} predictions",
  "card.target": "Answers", "card.horizon": "For", "card.weak": "Weak where", "card.trained_on": "Learnt from", "card.split": "Split", "card.created": "Made", "card.size": "Size", "card.scores": "Scores (95 % interval)",
  "card.bars": "Asked before release", "card.passed": "passed", "card.failed": "not passed",

  pack3d: {
    no_value: "no value", nothing: "No values of single cells yet.", label: "The pack in 3D, {series} cells in series, {parallel} in parallel.",
    label_2d: "The pack from above, {series} cells in series, {parallel} in parallel.",
    keys: "Arrow keys go from cell to cell, with Shift they turn the pack; + and - come nearer and go away, Home puts it back.", keys_2d: "Arrow keys go from cell to cell.",
    quantity: { voltage: "Voltage", charge: "Charge", temperature: "Temperature" }, units: { voltage: "V", charge: "%", temperature: "°C" },
    arrangement: "{series} cells in series, {parallel} in parallel, drawn in modules of {perModule}; the real arrangement may be another.",
    probes: "{probes} probes for {series} cells: each cell has the value of the probe for its part of the pack.", charge_of_pack: "The charge is the pack's: that of single cells is not measured.",
    not_installed: "The 3D view is not installed (voltflow page install): seen from above.", no_webgl: "This browser has no WebGL: seen from above.", charge: "The pack is charged to {value}.", unknown: "Cells without a value: {count}.",
    summary: {
      voltage: "Lowest is cell {low} with {low_value}, highest cell {high} with {high_value}: spread {spread}.",
      temperature: "Coolest is cell {low} with {low_value}, hottest cell {high} with {high_value}: spread {spread}.",
    },
    flow: { charge: "Charging: {current} A into the battery", discharge: "Discharging: {current} A out of the battery", idle: "No current" },
    cell: "Cell {cell}, module {module}", line: { voltage: "{value}", temperature: "{value} (probe {probe})", charge: "Pack charged to {value}" },
  },
};

export function t(key, values = {}) {
  const text = TEXTS[key];
  return typeof text === "string" ? text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all) : key;
}
