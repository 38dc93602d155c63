// Line charts as SVG: time on x, gaps where a value is unknown, a cross-hair that reads the values.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// About `count` round numbers that cover [low, high].
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? 10 * power;
  const result = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step / 1e6; v += step) result.push(+v.toFixed(9));
  return result;
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880].map((m) => m * 60000);

function timeTicks(low, high, count) {
  const step = TIME_STEPS.find((s) => (high - low) / s <= count) ?? TIME_STEPS.at(-1);
  const zone = new Date(high).getTimezoneOffset() * 60000;
  const result = [];
  for (let t = Math.ceil((low - zone) / step) * step + zone; t <= high; t += step) result.push(t);
  return result;
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

// A chart in `figure`; call `draw(series)` with [{name, kind, points: [[ms, value|null], …]}], kinds: a, b, b-dash.
class Chart {
  constructor(parent, { title, unit, digits = 1, least = 1 }) {
    Object.assign(this, { title, unit, digits, least, series: [], at: null });
    this.figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("strong");
    name.textContent = title;
    this.legend = document.createElement("span");
    caption.append(name, this.legend);
    this.plot = svg("svg", { role: "img", preserveAspectRatio: "none" });
    this.figure.append(caption, this.plot);
    parent.append(this.figure);
    this.plot.addEventListener("pointermove", (event) => {
      const box = this.plot.getBoundingClientRect();
      this.at = event.clientX - box.left;
      this.render();
    });
    this.plot.addEventListener("pointerleave", () => { this.at = null; this.render(); });
    new ResizeObserver(() => this.render()).observe(this.figure);
  }

  draw(series) {
    this.series = series;
    this.render();
  }

  render() {
    const width = this.figure.clientWidth, height = 170;
    const known = this.series.flatMap((s) => s.points).filter((p) => p[1] !== null);
    this.plot.replaceChildren();
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (!width || known.length < 2) {
      this.legend.textContent = "";
      this.plot.append(svg("text", { x: 8, y: 90, class: "axis" }, "no values yet"));
      return;
    }
    this.scale(known, width, height);
    this.axes(width, height);
    for (const s of this.series) this.plot.append(svg("path", { d: this.path(s.points), class: `line ${s.kind}` }));
    this.read(height);
  }

  scale(known, width, height) {
    const xs = known.map((p) => p[0]), ys = known.map((p) => p[1]);
    const min = (a) => a.reduce((x, y) => Math.min(x, y)), max = (a) => a.reduce((x, y) => Math.max(x, y));
    let [low, high] = [min(ys), max(ys)];
    const pad = Math.max(this.least - (high - low), (high - low) * 0.16) / 2;
    [low, high] = [low - pad, high + pad];
    const [x0, x1] = [min(xs), max(xs)];
    const [left, right, top, bottom] = [46, 8, 8, 22];
    this.bounds = { low, high, x0, x1, left, right: width - right, top, bottom: height - bottom };
    this.x = (t) => left + ((t - x0) / (x1 - x0 || 1)) * (width - left - right);
    this.y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
  }

  axes(width, height) {
    const { low, high, x0, x1, left, right } = this.bounds;
    for (const v of ticks(low, high, 4)) {
      const y = this.y(v);
      this.plot.append(svg("line", { x1: left, x2: right, y1: y, y2: y, class: "grid" }));
      this.plot.append(svg("text", { x: left - 6, y: y + 4, class: "axis end" }, String(v)));
    }
    for (const t of timeTicks(x0, x1, Math.max(2, width / 90))) {
      if (this.x(t) > width - 22) continue; // it would be cut off
      this.plot.append(svg("text", { x: this.x(t), y: height - 5, class: "axis mid" }, clock(t)));
    }
  }

  path(points) {
    let d = "", pen = false;
    for (const [t, v] of points) {
      if (v === null) { pen = false; continue; }
      d += `${pen ? "L" : "M"}${this.x(t).toFixed(1)} ${this.y(v).toFixed(1)}`;
      pen = true;
    }
    return d;
  }

  // The legend with the values at the cross-hair, or the newest ones.
  read(height) {
    const { x0, x1, left, right, top, bottom } = this.bounds;
    const time = this.at === null ? null : x0 + ((this.at - left) / (right - left)) * (x1 - x0);
    const parts = [];
    this.legend.replaceChildren();
    for (const s of this.series) {
      const points = s.points.filter((p) => p[1] !== null);
      if (!points.length) continue;
      const near = time === null ? points.at(-1)
        : points.reduce((a, b) => (Math.abs(b[0] - time) < Math.abs(a[0] - time) ? b : a));
      const item = document.createElement("span");
      item.className = `key ${s.kind}`;
      item.textContent = `${s.name} ${near[1].toFixed(this.digits)} ${this.unit}`;
      parts.push(item.textContent);
      this.legend.append(item);
      if (time !== null) this.plot.append(svg("circle", { cx: this.x(near[0]), cy: this.y(near[1]), r: 3, class: s.kind }));
    }
    if (time !== null && this.at > left) {
      this.plot.append(svg("line", { x1: this.at, x2: this.at, y1: top, y2: bottom, class: "cross" }));
      const when = document.createElement("span");
      when.textContent = clock(time);
      this.legend.append(when);
    }
    this.plot.setAttribute("aria-label", `${this.title}: ${parts.join(", ")}`);
  }
}
