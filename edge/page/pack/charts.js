// The charts of a pack: what was measured beside what was predicted for that time.

import { get } from "../api.js";
import { el } from "../dom.js";
import { packPath } from "../format.js";
import { t } from "../texts.js";
import { NotInstalled, styleSheet, vendored } from "../vendored.js";
import { Chart } from "./chart.js";
import { Zoom } from "./zoom.js";

const POINTS = 720;
const MEASURED = "soh_measured_pct"; // by charge sessions, now and then: dots
const INSTALL = "voltflow page install";

const SPECS = [
  { key: "temperature", unit: "°C", digits: 1, least: 4, lines: [["measured", "temp_c", "--a"], ["ahead", "temp_predicted_c", "--b", true]] },
  { key: "soc", unit: "%", digits: 1, least: 4, floor: 0, ceiling: 100, lines: [["bms", "soc_pct", "--a"], ["twin", "soc_est_pct", "--b"]] },
  { key: "soh", unit: "%", digits: 1, least: 4, ceiling: 105, lines: [["measured", MEASURED, "--a"], ["predicted", "soh_predicted_pct", "--b"]], band: ["soh_low_pct", "soh_high_pct"] },
  { key: "rul", unit: "", digits: 0, least: 40, floor: 0, lines: [["predicted", "rul_efc", "--b"]], band: ["rul_low_efc", "rul_high_efc"] },
  { key: "voltage", unit: "V", digits: 1, least: 4, lines: [["pack", "voltage_v", "--a"]] },
  { key: "current", unit: "A", digits: 1, least: 4, lines: [["pack", "current_a", "--a"]] },
  { key: "power", unit: "kW", digits: 1, least: 2, lines: [["pack", "power_kw", "--a"]] },
  { key: "failure", unit: "%", digits: 2, least: 1, floor: 0, ceiling: 100, lines: [["predicted", "failure_pct", "--b"]] },
];

async function library() {
  const [{ default: uPlot }] = await Promise.all([vendored("uplot/dist/uPlot.esm.js"), styleSheet("vendor/uplot/dist/uPlot.min.css")]);
  return uPlot;
}

export class Charts {
  constructor(name) {
    this.name = name;
    this.points = [];
    this.loaded = false; // the stream may tell of the newest point before the history is here
    this.stepMs = this.periodMs = 10000;
    this.horizonMs = 600000;
    this.charts = [];
    this.measured = []; // [[ms, health in %], …]
    this.zoom = new Zoom(() => this.charts.forEach((chart) => chart.data && chart.fit()));
    this.zoom.extent = () => (this.points.length > 1 ? { min: this.points[0].ts_ms / 1000, max: (this.points.at(-1).ts_ms + this.horizonMs) / 1000 } : null);
    this.body = el("div", { id: "charts", class: "charts" });
  }

  // Load what draws them, where it is not there yet.
  start() {
    this.starting ??= this.begin().finally(() => { this.starting = null; });
    return this.starting;
  }

  async begin() {
    if (this.charts.length || this.missing) return;
    let uPlot;
    try {
      uPlot = await library();
    } catch (error) {
      this.missing = error instanceof NotInstalled;
      const told = this.missing ? [t("charts.missing"), " ", el("code", { text: INSTALL })] : [t("charts.away")];
      this.body.replaceChildren(el("p", { class: "missing", id: "charts-missing", role: "status" }, told));
      return;
    }
    if (this.gone) return;
    this.charts = SPECS.map((spec) => new Chart(uPlot, worded(spec), this.zoom));
    this.body.replaceChildren(...this.charts.map((chart) => chart.element));
  }

  async load() {
    await this.start();
    if (!this.charts.length) return;
    const answer = await get(packPath(this.name, `history?limit=${POINTS}`));
    if (this.gone) return;
    this.loaded = true;
    this.points = answer.points.map(withPower);
    [this.stepMs, this.periodMs] = [answer.step_ms, answer.period_ms];
    this.draw();
  }

  // The newest message is the last point; it becomes a lasting one when it is a period after the one before.
  extend(row) {
    const last = this.points.at(-1), before = this.points.at(-2);
    if (row.ts_ms === null || (last && row.ts_ms <= last.ts_ms)) return;
    if (last && before && last.ts_ms - before.ts_ms < this.periodMs) this.points.pop();
    this.points.push({ ...kept(last), ...row });
    if (this.points.length > POINTS) this.points.shift();
    this.draw();
  }

  // What charge sessions measured.
  sessions(found) {
    this.measured = found.filter((session) => session.soh_measured_pct !== null && session.end_ms !== null)
      .map((session) => [session.end_ms, session.soh_measured_pct]).sort(([a], [b]) => a - b);
    if (this.measured.length) this.draw();
  }

  draw() {
    const from = this.points[0]?.ts_ms ?? 0, measured = this.measured.filter(([ms]) => ms >= from);
    SPECS.forEach((spec, i) => {
      const values = (field, shift = 0) => this.points.map((point) => [point.ts_ms + shift, point[field]]);
      const tables = spec.lines.map(([, field, , ahead]) => (field === MEASURED ? measured : values(field, ahead ? this.horizonMs : 0)));
      if (spec.band) tables.push(values(spec.band[1]), values(spec.band[0]));
      this.charts[i]?.draw(tables, this.stepMs);
    });
  }

  repaint() { this.charts.forEach((chart) => chart.repaint()); }

  dispose() {
    this.gone = true;
    this.charts.forEach((chart) => chart.dispose());
  }
}

const withPower = (point) => ({
  ...point, power_kw: point.power_kw ?? (point.voltage_v === null || point.current_a === null ? null : (point.voltage_v * point.current_a) / 1000),
});

// What a row of the stream does not say stays as it was in the point before.
function kept(point) {
  const names = SPECS.flatMap((spec) => [...spec.lines.map(([, field]) => field), ...(spec.band ?? [])]);
  return Object.fromEntries(names.filter((name) => point?.[name] !== undefined).map((name) => [name, point[name]]));
}

const worded = (spec) => ({
  ...spec, title: t(`chart.${spec.key}`), unit: spec.unit || t("unit.cycles"),
  lines: spec.lines.map(([label, field, colour, ahead]) => ({ label: t(`line.${label}`), colour, dash: ahead ? [6, 4] : undefined, dots: field === MEASURED })),
  band: spec.band && { label: t("line.interval"), colour: "--b" },
});
