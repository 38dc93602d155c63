// The gateway's page: reads the API, listens to /api/stream. Everything from outside goes in as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const SHOWN = 100, KEPT = 400, POLL_MS = 3000, STALE_MS = 40000;
const SYMBOLS = { c: "°C", pct: "%", mv: "mV", ohm_per_v: "Ω/V" }; // how messages spell units, and how people do
const rows = new Map(); // by "fleet/pack"
let bands = {}, total = 0, alertCount = -1, selected = null, history = [], horizon = 600000, charts = null;
let flowBefore = null, renderAsked = false;

// -- talking to the gateway -------------------------------------------------------------------------------------

class Unauthorized extends Error {}

function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return fetch(path, { headers, cache: "no-store", ...options }).then((response) => {
    if (response.status === 401) throw new Unauthorized();
    return response;
  });
}

async function get(path) {
  const response = await ask(path, { signal: AbortSignal.timeout(10000) });
  const answer = await response.json();
  if (answer.error) throw new Error(answer.error.message);
  return answer;
}

const packPath = (name, view) => `api/packs/${name.split("/").map(encodeURIComponent).join("/")}/${view}`;

// Reads server-sent events with fetch, because EventSource cannot send the token as a header.
async function listen() {
  for (;;) {
    try {
      const abort = new AbortController();
      const response = await ask("api/stream", { signal: abort.signal });
      if (!response.ok) throw new Error(`stream: ${response.status}`);
      lost(false);
      await readEvents(response.body.getReader(), abort);
    } catch (error) {
      if (error instanceof Unauthorized) return login();
    }
    lost(true);
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

async function readEvents(reader, abort) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const silence = setTimeout(() => abort.abort(), STALE_MS); // the gateway says something every 15 s
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) onPacks(JSON.parse(data.slice(6)));
    }
  }
}

function lost(is) {
  $("lost").hidden = !is;
  document.body.classList.toggle("stale", is);
  if (is) {
    $("health").className = "pill poor";
    $("health").textContent = "no connection";
  }
}

function login() {
  $("login").hidden = false;
  $("main").hidden = true;
  $("health").textContent = "locked";
  if (sessionStorage.getItem("token")) $("login-error").textContent = "That is not this gateway's token.";
  sessionStorage.removeItem("token");
  $("token").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  location.reload();
});

// -- showing ----------------------------------------------------------------------------------------------------

function el(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function number(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function grade(quantity, value) {
  const band = bands[quantity];
  if (!band || value === null || value === undefined) return "";
  const sign = band.poor > band.fair ? 1 : -1;
  return sign * value > sign * band.poor ? "poor" : sign * value > sign * band.fair ? "fair" : "good";
}

// A number with its grade as colour, and for poor values as a sign too.
function graded(tag, quantity, value, digits, unit) {
  const name = grade(quantity, value);
  const text = value === null || value === undefined ? "–" : `${number(value, digits)}${unit}`;
  const element = el(tag, name === "poor" ? `▲ ${text}` : text, `n ${name}`);
  if (name) element.title = name;
  return element;
}

function cells(tr, ...values) {
  for (const value of values) tr.append(value instanceof Node ? value : el("td", value));
  return tr;
}

function duration(s) {
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

// -- packs ------------------------------------------------------------------------------------------------------

function onPacks(changes) {
  total = changes.total;
  for (const row of changes.packs) rows.set(row.name, row);
  if (rows.size > KEPT) for (const row of sorted().slice(KEPT)) if (row.name !== selected) rows.delete(row.name);
  if (changes.alerts !== alertCount) {
    alertCount = changes.alerts;
    showAlerts().catch(ignore);
  }
  if (selected === null && rows.size) choose(sorted()[0].name);
  const row = rows.get(selected);
  if (row && changes.packs.includes(row)) extend(row);
  if (!renderAsked) {
    renderAsked = true;
    requestAnimationFrame(() => { renderAsked = false; showPacks(); showTiles(); });
  }
}

const stateOf = (row) => row.online === false ? "offline" : row.silent ? "silent" : (row.charging_state ?? "").replaceAll("_", " ");
const sorted = () => [...rows.values()].sort((a, b) => b.worry - a.worry || a.name.localeCompare(b.name));

function showPacks() {
  const wanted = $("filter").value.trim().toLowerCase();
  const found = sorted().filter((row) => row.name.toLowerCase().includes(wanted));
  const body = $("packs-table").tBodies[0];
  const lines = found.slice(0, SHOWN).map(packLine);
  const focused = document.activeElement?.dataset?.pack;
  body.replaceChildren(...lines);
  if (focused) body.querySelector(`[data-pack="${CSS.escape(focused)}"]`)?.focus();
  $("packs-count").textContent = total === 0 ? "none has sent anything yet"
    : `${number(total)} in all, the most worrying first${found.length < total || found.length > SHOWN ? `; ${number(Math.min(found.length, SHOWN))} shown` : ""}`;
}

function packLine(row) {
  const tr = el("tr");
  if (row.name === selected) tr.className = "selected";
  if (row.silent || row.online === false) tr.classList.add("away");
  const button = el("button", row.name, "link");
  button.type = "button";
  button.dataset.pack = row.name;
  button.setAttribute("aria-pressed", row.name === selected);
  const name = el("th");
  name.scope = "row";
  name.append(button);
  const charge = graded("td", "soc", row.soc_pct, 0, " %");
  charge.classList.add("charge");
  if (row.soc_pct !== null) {
    const bar = el("meter");
    Object.assign(bar, { min: 0, max: 100, low: 20, high: 50, optimum: 100, value: row.soc_pct });
    bar.setAttribute("aria-hidden", "true");
    charge.prepend(bar);
  }
  return cells(tr, name, charge, graded("td", "temperature", row.temp_c, 1, " °C"),
    graded("td", "temperature", row.temp_predicted_c, 1, " °C"), graded("td", "soh", row.soh_predicted_pct, 1, " %"),
    graded("td", "rul", row.rul_efc, 0, ""), graded("td", "failure", row.failure_pct, 1, " %"),
    el("td", row.power_kw === null ? "–" : `${number(row.power_kw, 1)} kW`, "n wide"), el("td", stateOf(row), "wide dim"), el("td", row.worries.join("; "), "wide why"));
}

$("packs-table").addEventListener("click", (event) => {
  const button = event.target.closest("tr")?.querySelector("button");
  if (button) { choose(button.dataset.pack); if (event.target !== button) $("detail-name").focus(); }
});
$("filter").addEventListener("input", showPacks);
$("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const first = document.querySelector("#packs-table button");
  const name = first ? first.dataset.pack : $("filter").value.trim();
  try {
    const status = await get(packPath(name, "status"));
    choose(`${status.fleet}/${status.battery_id}`);
  } catch (error) {
    $("packs-count").textContent = error.message;
  }
});

// -- one pack ---------------------------------------------------------------------------------------------------

async function choose(name) {
  selected = name;
  history = [];
  $("detail").hidden = false;
  $("detail-name").textContent = name;
  charts ??= {
    temperature: new Chart($("charts"), { title: "Hottest cell", unit: "°C", least: 4 }),
    soc: new Chart($("charts"), { title: "State of charge", unit: "%", least: 4 }),
    voltage: new Chart($("charts"), { title: "Voltage", unit: "V", least: 4 }),
    current: new Chart($("charts"), { title: "Current, positive into the battery", unit: "A", least: 4 }),
  };
  showPacks();
  try {
    const answer = await get(packPath(name, "history?limit=720"));
    if (name !== selected) return;
    history = answer.points;
    draw();
    await showDetail();
  } catch (error) { ignore(error); }
}

// The newest message is the last point; it becomes a lasting one when it is 10 s after the one before.
function extend(row) {
  const last = history.at(-1), before = history.at(-2);
  if (last && row.ts_ms < last.ts_ms) return;
  if (last && before && last.ts_ms - before.ts_ms < 10000) history.pop();
  history.push(row);
  if (history.length > 720) history.shift();
  draw();
}

function draw() {
  const points = (field, shift = 0) => history.map((p) => [p.ts_ms + shift, p[field] ?? null]);
  charts.temperature.draw([
    { name: "measured", kind: "a", points: points("temp_c") },
    { name: `predicted ${Math.round(horizon / 60000)} min before`, kind: "b dash", points: points("temp_predicted_c", horizon) },
  ]);
  charts.soc.draw([
    { name: "BMS", kind: "a", points: points("soc_pct") },
    { name: "twin", kind: "b", points: points("soc_est_pct") },
  ]);
  charts.voltage.draw([{ name: "pack", kind: "a", points: points("voltage_v") }]);
  charts.current.draw([{ name: "pack", kind: "a", points: points("current_a") }]);
}

function showTiles() {
  const row = rows.get(selected);
  if (!row) return;
  const tile = (name, value) => {
    const box = el("div", undefined, "tile");
    box.append(el("span", name, "dim"), value);
    return box;
  };
  $("tiles").replaceChildren(
    tile("Charge", graded("b", "soc", row.soc_pct, 1, " %")),
    tile("Hottest cell", graded("b", "temperature", row.temp_c, 1, " °C")),
    tile("in 10 min", graded("b", "temperature", row.temp_predicted_c, 1, " °C")),
    tile("Predicted health", graded("b", "soh", row.soh_predicted_pct, 1, " %")),
    tile("Cycles left", graded("b", "rul", row.rul_efc, 0, "")),
    tile("Failure in 7 days", graded("b", "failure", row.failure_pct, 2, " %")),
    tile("Voltage", graded("b", "", row.voltage_v, 1, " V")),
    tile("Current", graded("b", "", row.current_a, 1, " A")),
  );
  const time = row.ts_ms === null ? "no telemetry yet" : `device time ${new Date(row.ts_ms).toLocaleString()}`;
  $("detail-facts").textContent = [time, stateOf(row)].filter(Boolean).join(" · ");
}

async function showDetail() {
  const name = selected;
  const detail = await get(packPath(name, "detailed"));
  if (name !== selected) return;
  const made = detail.predictions.temperature;
  if (made?.target_ms && made?.made_ms) horizon = made.target_ms - made.made_ms;
  const names = { soh: "State of health", temperature: "Hottest cell, 10 min ahead", rul: "Cycles to 80 %", failure: "Failure in 7 days" };
  const unitOf = { EFC: "cycles" };
  $("comparison").tBodies[0].replaceChildren(...Object.entries(detail.comparisons).map(([key, c]) => {
    const unit = unitOf[c.unit] ?? c.unit, digits = key === "rul" ? 0 : 2;
    const value = (v) => el("td", v === null ? "–" : `${number(v, digits)} ${unit}`, "n");
    const span = detail.predictions[key], head = el("th", names[key] ?? key);
    head.scope = "row";
    const predicted = value(c.predicted);
    if (span?.low !== undefined) predicted.textContent += ` (${number(span.low)} – ${number(span.high)})`;
    return cells(el("tr"), head, predicted, value(c.actual), value(c.difference),
      el("td", c.accuracy === null ? "–" : `${number(c.accuracy, 1)} %`, "n"), el("td", c.reason ?? "", "why"));
  }));
}

// -- gateway ----------------------------------------------------------------------------------------------------

async function showHealth() {
  const health = await get("api/health");
  $("gateway").textContent = health.gateway;
  document.title = `${health.gateway} – Voltflow gateway`;
  $("health").textContent = health.status;
  $("health").className = `pill ${{ ok: "good", degraded: "fair", unhealthy: "poor" }[health.status]}`;
  const facts = { up: duration(health.uptime_s), packs: number(health.packs), messages: number(health.messages),
    "newest message": health.newest_message_age_s === null ? "none" : `${duration(health.newest_message_age_s)} ago`,
    version: health.version };
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const pair = el("div");
    pair.append(el("dt", name), el("dd", value));
    return pair;
  }));
  $("reasons").hidden = health.reasons.length === 0;
  $("reasons").replaceChildren(...health.reasons.map((reason) => el("li", reason.message)));
}

async function showFlow() {
  const [flow, held] = await Promise.all([get("api/flow"), get("api/spool")]);
  const now = performance.now(), before = flowBefore, sinks = new Map(held.sinks.map((s) => [s.id, s]));
  flowBefore = { now, counts: new Map(flow.nodes.map((n) => [n.id, n.messages_in])) };
  $("flow-facts").textContent = `revision ${flow.revision} · ${number(flow.in_flight_batches)} batches under way`
    + (flow.stalls ? ` · ${flow.stalls} stalls` : "")
    + Object.entries(flow.dropped).map(([reason, count]) => ` · dropped ${number(count)} (${reason})`).join("");
  $("flow").tBodies[0].replaceChildren(...flow.nodes.filter((n) => n.type !== "tls-config").map((n) => nodeLine(n, before, now, sinks.get(n.id))));
}

// What a node does now, and whether that is bad.
function nodeState(n, sink) {
  if (n.type === "mqtt-broker" && n.status.connected) return [`connected to ${n.status.address}`, false];
  if (n.type === "mqtt-broker") return [`not connected: ${n.status.error || n.status.address || "starting"}`, true];
  if (sink && sink.circuit !== "closed") return [`away for ${duration(sink.away_s)}: ${sink.error || n.error}`, true];
  return [sink?.spool?.messages ? "sending the backlog" : n.error || "ok", Boolean(n.error)];
}

function nodeLine(n, before, now, sink) {
  const config = n.type === "mqtt-broker", was = before?.counts.get(n.id), [state, bad] = nodeState(n, sink);
  const rate = was === undefined ? "–" : number(((n.messages_in - was) / (now - before.now)) * 1000);
  const head = el("th"), plain = (text) => el("td", config ? "" : text, "n");
  head.scope = "row";
  head.append(el("span", n.name || n.type), ...(n.name && n.name !== n.type ? [el("span", ` ${n.type}`, "dim")] : []));
  const cost = !n.wires.flat().length ? "" : n.messages_in ? number((n.busy_s / n.messages_in) * 1e6, 1) : "–";
  return cells(el("tr"), head, plain(rate), plain(number(n.messages_in)),
    el("td", config ? "" : number(n.failures), n.failures ? "n fair" : "n"), plain(number(n.waiting)),
    el("td", sink?.spool ? number(sink.spool.messages) : "", sink?.spool?.messages ? "n fair" : "n"),
    el("td", config ? "" : cost, "n wide"), el("td", bad ? `▲ ${state}` : state, bad ? "poor why" : "why"));
}

async function showAlerts() {
  const { active, alerts } = await get("api/alerts?limit=50");
  const recent = await get("api/alerts?state=recent&limit=10");
  const over = recent.alerts.filter((a) => a.state === "cleared");
  $("alerts-count").textContent = active ? `${number(active)} active` : "none active";
  $("alerts").replaceChildren(...[...alerts, ...over].map((alert) => {
    const item = el("li", undefined, alert.state === "cleared" ? "cleared" : "");
    const sign = { critical: "poor", warning: "fair", info: "" }[alert.severity];
    item.append(el("span", alert.state === "cleared" ? "cleared" : alert.severity, `pill ${alert.state === "cleared" ? "" : sign}`),
      el("b", `${alert.fleet}/${alert.pack}`), el("span", alert.text || alert.code),
      el("span", alert.value === null ? "" : `${number(alert.value, 1)} ${SYMBOLS[alert.unit] ?? alert.unit ?? ""} (limit ${number(alert.limit, 1)})`, "dim"),
      el("time", `since ${new Date(alert.since_ms).toLocaleString()}`, "dim"));
    return item;
  }));
}

async function showModels() {
  const { models, temperature_errors: errors } = await get("api/models");
  $("models-facts").textContent = errors.compared
    ? `temperature, last ${number(errors.compared)} compared: ${number(errors.mean_absolute_c, 2)} °C mean absolute error` : "";
  $("models").tBodies[0].replaceChildren(...models.map((m) => {
    const head = el("th", m.name), card = m.card ?? {};
    head.scope = "row";
    const says = m.loaded ? [card.target, card.horizon].filter((t) => typeof t === "string").join(", ") : `▲ ${m.reason}`;
    return cells(el("tr"), head, el("td", m.hash ?? "–", "mono"), el("td", number(m.predictions), "n"),
      el("td", m.size_bytes ? `${number(m.size_bytes / 1024)} KB` : "–", "n wide"), el("td", says, m.loaded ? "why" : "poor why"));
  }));
}

// What one request could not tell comes with the next poll.
function ignore(error) {
  console.debug(error);
}

async function poll() {
  for (let round = 0; ; round += 1) {
    try {
      if (!document.hidden) {
        await Promise.all([showHealth(), showFlow(), round % 4 ? null : showModels(), round % 2 ? null : showAlerts(), selected && showDetail()]);
      }
    } catch (error) {
      if (error instanceof Unauthorized) return login();
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function main() {
  try {
    bands = (await get("api/packs?limit=1")).bands;
  } catch (error) {
    if (error instanceof Unauthorized) return login();
  }
  $("links").hidden = sessionStorage.getItem("token") !== null; // a plain link cannot send the token
  listen();
  poll();
}

main();
