// One chart: uPlot with gaps as gaps, an interval as a band, zoom by dragging (mouse and finger), and its text for who cannot see it.

import { el, say } from "../dom.js";
import { clock, number } from "../format.js";
import { t } from "../texts.js";
import { colour } from "../theme.js";
import { zoomByTouch } from "./touch.js";

const HEIGHT = 180, GAP_STEPS = 3;
const NULLS_SPREAD = 2; // a gap of one line stays one where another line has points in it

// [[ms, value|null], …] as [seconds, values] with a null wherever a point is missing.
export function withGaps(points, stepMs) {
  const xs = [], ys = [];
  for (const [ms, value] of points) {
    const before = xs.at(-1);
    if (before !== undefined && ms / 1000 - before > (stepMs * GAP_STEPS) / 1000) {
      xs.push((ms / 1000 + before) / 2);
      ys.push(null);
    }
    xs.push(ms / 1000);
    ys.push(value ?? null);
  }
  return [xs, ys];
}

// spec: {key, title, unit, digits, least, lines: [{label, colour, dash, points}], band: {label, low, high, colour}}.
export class Chart {
  constructor(uPlot, spec, zoom) {
    this.uPlot = uPlot;
    this.spec = spec;
    this.zoom = zoom;
    this.legend = el("span", { class: "legend", "aria-hidden": "true" });
    this.box = el("div", { class: "plot", role: "img", tabindex: "0", "aria-label": spec.title });
    this.empty = el("p", { class: "dim none", text: t("chart.none") });
    this.element = el("figure", { class: "chart", id: `chart-${spec.key}`, "data-testid": `chart-${spec.key}` },
      el("figcaption", {}, el("b", { text: spec.title }), this.legend), this.box, this.empty);
    this.box.addEventListener("keydown", (event) => zoom.key(event));
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.box);
  }

  get series() {
    const { lines, band } = this.spec;
    return band ? [...lines, { ...band, edge: true }, { ...band, edge: true, second: true }] : lines;
  }

  // `tables` are [[ms, value], …] by line; of a band its upper and its lower edge follow.
  draw(tables, stepMs) {
    const known = tables.some((points) => points.filter(([, value]) => value !== null && value !== undefined).length > 1);
    this.empty.hidden = known;
    this.box.hidden = !known;
    if (!known) {
      const only = tables.map((points) => points.findLast(([, value]) => isKnown(value))).find(Boolean); // of the first line that has one
      say(this.empty, only ? t("chart.one", { value: `${number(only[1], this.spec.digits)} ${this.spec.unit}` }) : t("chart.none"));
      return say(this.legend, "");
    }
    const joined = tables.map((points) => withGaps(points, stepMs));
    const data = this.uPlot.join(joined, joined.map(() => [NULLS_SPREAD, NULLS_SPREAD]));
    if (this.plot) this.plot.setData(data, false);
    else this.make(data);
    this.data = data;
    this.element.dataset.points = data[0].length;
    this.element.dataset.last = data[0].at(-1);
    this.fit();
    this.read(null);
    this.describe();
  }

  fit() {
    const range = this.zoom.range, xs = this.data[0];
    this.plot.setScale("x", range ?? { min: xs[0], max: xs.at(-1) });
  }

  make(data) {
    const { spec } = this, dim = () => colour("--dim"), grid = { stroke: () => colour("--line"), width: 1 };
    const font = "12px system-ui, sans-serif", axis = { stroke: dim, grid, ticks: { show: false }, font };
    const line = ({ label, colour: name, dash, edge, dots }) => ({
      label, dash, width: edge || dots ? 0 : 1.8, stroke: () => colour(name), points: { show: Boolean(dots), size: 8, fill: () => colour(name) }, spanGaps: false,
    });
    const n = spec.lines.length;
    this.plot = new this.uPlot({
      width: this.box.clientWidth || 300, height: HEIGHT, padding: [8, 18, 0, 0], legend: { show: false }, pxAlign: 0,
      cursor: { sync: { key: "pack" }, drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
      axes: [{ ...axis, size: 26, space: 70, values: (u, ticks) => ticks.map((s) => shortClock(s, ticks)) }, { ...axis, size: 48 }],
      scales: { x: { time: true }, y: { range: (u, low, high) => padded(low, high, spec) } },
      series: [{}, ...this.series.map(line)],
      bands: spec.band ? [{ series: [n + 1, n + 2], fill: () => colour(`${spec.band.colour}-band`) }] : [],
      hooks: {
        setCursor: [(u) => this.read(u.cursor.idx ?? null)],
        setSelect: [(u) => u.select.width > 4 && this.select(u)],
      },
    }, data, this.box);
    zoomByTouch(this.plot, this.zoom);
    this.plot.over.addEventListener("dblclick", () => this.zoom.set(null));
  }

  select(u) {
    const { left, width } = u.select;
    this.zoom.set({ min: u.posToVal(left, "x"), max: u.posToVal(left + width, "x") });
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  // The legend with the values at the cross-hair, or the newest ones.
  read(at) {
    if (!this.data) return;
    const parts = this.spec.lines.map(({ label, colour: name, dash }, i) => {
      const ys = this.data[i + 1], value = at === null ? newest(ys) : near(ys, at);
      if (newest(ys) === null) return null;
      return el("span", { class: `key ${dash ? "dash" : ""}`, "data-colour": name.slice(2) }, `${label} `, el("b", { text: `${number(value, this.spec.digits)} ${this.spec.unit}` }));
    });
    if (this.hasBand) parts.push(el("span", { class: "key band", "data-colour": this.spec.band.colour.slice(2), text: this.bandText(at) }));
    if (at !== null) parts.push(el("span", { text: clock(this.data[0][at] * 1000) }));
    this.legend.replaceChildren(...parts.filter(Boolean));
  }

  get hasBand() { return Boolean(this.spec.band) && newest(this.data[this.spec.lines.length + 1]) !== null; }

  bandText(at) {
    const n = this.spec.lines.length, pick = (ys) => (at === null ? newest(ys) : near(ys, at));
    return `${this.spec.band.label} ${number(pick(this.data[n + 2]), this.spec.digits)} – ${number(pick(this.data[n + 1]), this.spec.digits)}`;
  }

  describe() {
    const { lines, title, unit, digits } = this.spec, xs = this.data[0];
    const told = lines.map(({ label }, i) => {
      const ys = this.data[i + 1].filter((y) => y !== null && y !== undefined);
      if (!ys.length) return t("chart.line_none", { label });
      const [low, high] = ys.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
      return t("chart.line", { label, now: number(ys.at(-1), digits), low: number(low, digits), high: number(high, digits), unit });
    });
    const band = this.hasBand ? [this.bandText(null)] : [];
    this.box.setAttribute("aria-label", t("chart.summary", { title, from: clock(xs[0] * 1000), to: clock(xs.at(-1) * 1000), lines: [...told, ...band].join("; ") }));
  }

  resize() {
    if (this.plot && this.box.clientWidth) this.plot.setSize({ width: this.box.clientWidth, height: HEIGHT });
  }

  repaint() { this.plot?.redraw(); }

  dispose() {
    this.sizes.disconnect();
    this.plot?.destroy();
  }
}

const isKnown = (y) => y !== null && y !== undefined;
const newest = (ys) => ys.findLast(isKnown) ?? null;

// The value at an index, or that of a neighbour: lines do not have their points at the same times.
function near(ys, at) {
  for (let off = 0; off < 4; off += 1) {
    if (isKnown(ys[at - off])) return ys[at - off];
    if (isKnown(ys[at + off])) return ys[at + off];
  }
  return null;
}

function padded(low, high, { least, floor, ceiling }) {
  if (low === null || low === undefined) return [0, 1];
  const pad = Math.max(least - (high - low), (high - low) * 0.16) / 2;
  return [Math.max(low - pad, floor ?? -Infinity), Math.min(high + pad, ceiling ?? Infinity)];
}

const DAY_S = 86400;
function shortClock(s, ticks) {
  const span = ticks.at(-1) - ticks[0], text = clock(s * 1000);
  if (span >= 3 * DAY_S) return new Date(s * 1000).toLocaleDateString("en", { day: "numeric", month: "short" });
  return span < 300 ? text : text.slice(0, 5);
}
