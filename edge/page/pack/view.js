// One pack: what is wrong with it, gauges, charts, predictions beside the truth, cells, sessions, alerts, nameplate.

import { follow, get, on, Refused } from "../api.js";
import { AlertList } from "../alerts/list.js";
import { allAlerts } from "../alerts/read.js";
import { el, say, section } from "../dom.js";
import { ageOf, count, inWords, isAway, number, packPath, stateOf, when, withUnit } from "../format.js";
import { t } from "../texts.js";
import { Cells } from "./cells.js";
import { Charts } from "./charts.js";
import { Comparison } from "./compare.js";
import { Gauges } from "./gauges.js";
import { Sessions } from "./sessions.js";

const ALERTS_SHOWN = 50;
const SLOW_ROUNDS = 4; // what changes slowly is asked for each so many rounds

export function packView(root, name) {
  const gauges = new Gauges(), charts = new Charts(name), comparison = new Comparison(), cells = new Cells(name), sessions = new Sessions(name);
  const alerts = new AlertList("pack-alerts", { named: false });
  const state = el("span", { class: "pill", id: "pack-state", hidden: true }), facts = el("p", { id: "pack-facts", class: "dim" });
  const worries = el("ul", { id: "pack-worries", class: "worries" }), values = el("dl", { id: "pack-values", class: "facts" });
  const noAlerts = el("p", { class: "dim none", text: t("alerts.none") }), plate = el("dl", { class: "facts" });
  const parts = {
    charts: section("charts-section", t("pack.charts"), charts.body), compare: section("compare-section", t("compare.title"), comparison.element),
    cells: section("cells-section", t("cells.title"), cells.element), sessions: section("sessions-section", t("sessions.title"), sessions.element),
    alerts: section("pack-alerts-section", t("alerts.title"), noAlerts, alerts.element), plate: section("plate-section", t("pack.plate"), plate),
  };
  parts.charts.head.append(charts.zoom.element);
  const absent = el("p", { id: "pack-absent", class: "missing", role: "status", hidden: true });
  const rest = el("div", {}, worries, gauges.element, values, parts.charts.element,
    el("div", { class: "two" }, parts.cells.element, el("div", {}, parts.alerts.element, parts.plate.element)), parts.compare.element, parts.sessions.element);
  root.append(
    el("div", { class: "pack-head" }, el("a", { class: "back", href: "#/", text: t("pack.back") }), el("h1", { id: "pack-name", tabindex: "-1", text: name }), state, facts),
    absent, rest,
  );
  let row = null, round = 0, detail = null;

  function take(found) {
    row = { ...row, ...found, asked: Date.now() };
    show();
  }

  // All of it from one row: what was asked for at another time would say something else.
  function show() {
    gauges.show(row, notesOf(row, detail), isAway(row) ? t("state.ago", { age: ageOf(row) }) : "");
    say(state, stateOf(row));
    state.className = `pill ${isAway(row) ? "poor" : ""}`;
    state.hidden = !state.textContent;
    say(facts, row.ts_ms ? t("pack.time", { at: when(row.ts_ms) }) : t("pack.no_telemetry"));
    worries.hidden = !row.worries?.length;
    const key = (row.worries ?? []).join("\n");
    if (worries.dataset.key !== key) {
      worries.dataset.key = key;
      worries.replaceChildren(...(row.worries ?? []).map((text) => el("li", { text: inWords(text), class: /^critical.*(?<!\(acknowledged\))$/.test(text) ? "poor" : "" })));
    }
    pairs(values, {
      voltage: withUnit(row.voltage_v, 1, "V"), current: withUnit(row.current_a, 1, "A"), power: withUnit(row.power_kw, 1, "kW"),
      temp_ahead: withUnit(row.temp_predicted_c, 1, "°C"), soc_twin: withUnit(row.soc_est_pct, 1, "%"),
    });
  }

  const offs = [
    on("packs", (changes) => {
      const found = changes.packs.find((item) => item.name === name);
      if (!found) return;
      take(found);
      charts.extend(found);
    }),
    on("theme", () => charts.repaint()),
    on("alerts", () => showAlerts().catch(() => {})),
    on("connection", (now) => now === "live" && charts.load().catch(() => {})),
  ];
  charts.start();
  follow(`?pack=${encodeURIComponent(name)}`);

  async function showDetail() {
    detail = await get(packPath(name, "detailed"));
    const { temperature } = detail.predictions;
    if (temperature?.target_ms && temperature.made_ms) charts.horizonMs = temperature.target_ms - temperature.made_ms;
    if (row) show();
    comparison.show(detail.comparisons, detail.predictions);
    pairs(plate, plateOf(detail));
  }

  async function showAlerts() {
    const found = await allAlerts(ALERTS_SHOWN, name);
    alerts.show(found);
    noAlerts.hidden = found.length > 0;
    say(parts.alerts.note, t("alerts.active", { n: number(found.filter((alert) => alert.state !== "cleared").length) }));
  }

  async function refresh() {
    const slow = round % SLOW_ROUNDS === 0;
    round += 1;
    const jobs = [showDetail(), showAlerts(), cells.refresh(row)];
    if (!charts.loaded) jobs.push(charts.load());
    if (slow) jobs.push(sessions.refresh().then((found) => charts.sessions(found)));
    const error = (await Promise.allSettled(jobs)).find((result) => result.status === "rejected")?.reason;
    const unknown = error instanceof Refused && [400, 404].includes(error.status); // 400: no pack can be called so
    isThere(!unknown, error?.message);
    if (error) throw error;
  }

  // A pack that the gateway does not know may come yet.
  function isThere(known, why) {
    absent.hidden = known;
    rest.hidden = !known;
    if (!known) say(absent, why);
  }

  const stop = () => { offs.forEach((off) => off()); charts.dispose(); cells.dispose(); };
  return { title: name, refresh, stop };
}

const MEASURED = { soc: "soc_pct", temperature: "cell_temp_max_c" }; // fields of the telemetry

function notesOf(row, detail) {
  const { rul, soh } = detail?.predictions ?? {}, invalid = detail?.telemetry?.quality?.invalid ?? [];
  const notes = {
    rul: span(rul), soh: span(soh), failure: t("pack.failure"),
    temperature: row.temp_predicted_c === null ? "" : t("pack.ahead", { value: withUnit(row.temp_predicted_c, 1, "°C") }),
    soc: row.soc_est_pct === null ? "" : t("pack.twin", { value: withUnit(row.soc_est_pct, 1, "%") }),
  };
  for (const [quantity, field] of Object.entries(MEASURED)) if (invalid.includes(field)) notes[quantity] = t("pack.impossible");
  return notes;
}

const span = (prediction) =>
  (prediction?.low === undefined || prediction.low === null ? "" : t("pack.interval", { low: number(prediction.low), high: number(prediction.high) }));

function plateOf({ nameplate, telemetry, messages, late_messages: late, skew_ms: skew }) {
  const found = {};
  if (nameplate) {
    found.chemistry = nameplate.chemistry ?? "–";
    found.arrangement = nameplate.cells_series ? t("pack.cells", { series: nameplate.cells_series, parallel: nameplate.cells_parallel ?? 1 }) : "–";
    found.capacity = withUnit(nameplate.capacity_rated_ah, 0, "Ah");
    found.firmware = nameplate.firmware ?? "–";
  }
  if (telemetry) {
    found.cycles = number(telemetry.efc, 0);
    found.isolation = withUnit(telemetry.insulation_kohm, 0, "kΩ");
    found.odometer = withUnit(telemetry.odometer_km, 0, "km");
  }
  return { ...found, messages: `${number(messages)}${late ? ` (${count(late, "pack.late")})` : ""}`, clock: clockOf(skew) };
}

function clockOf(skew_ms) {
  if (skew_ms === null) return "–";
  return t(skew_ms < 0 ? "pack.clock_behind" : "pack.clock_ahead", { time: withUnit(Math.abs(skew_ms) / 1000, 1, "s") });
}

function pairs(list, facts) {
  const entries = Object.entries(facts), key = entries.map(([name]) => name).join();
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...entries.map(([name]) => el("div", {}, el("dt", { text: t(`fact.${name}`) }), el("dd"))));
  }
  entries.forEach(([, value], i) => say(list.children[i].lastChild, value));
}
