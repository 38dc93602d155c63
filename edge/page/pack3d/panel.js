// Everything around the picture: legend with units, the chosen cell's values, the way of the current, and all of it in words.

import { gradient } from "./colours.js";

const DIGITS = { voltage: 3, charge: 0, temperature: 1 };

export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

function make(tag, name, more = {}) {
  return Object.assign(document.createElement(tag), { className: name ? `pack3d-${name}` : "pack3d" }, more);
}

export class Panel {
  constructor(container, texts) {
    this.texts = texts;
    this.root = make("div", "");
    this.stage = make("div", "stage");
    this.tip = make("div", "tip", { hidden: true });
    this.flow = make("p", "flow");
    this.legend = make("div", "legend");
    this.summary = make("p", "summary", { id: `pack3d-${Math.random().toString(36).slice(2)}` });
    this.note = make("p", "note");
    this.spoken = make("p", "spoken");
    this.spoken.setAttribute("aria-live", "polite");
    this.bar = make("span", "bar");
    [this.from, this.to, this.quantity] = [make("span", "end"), make("span", "end"), make("span", "quantity")];
    this.nothing = make("span", "nothing", { textContent: texts.no_value });
    this.legend.append(this.quantity, this.from, this.bar, this.to, this.nothing);
    this.stage.append(this.tip);
    this.root.append(this.stage, this.flow, this.legend, this.summary, this.note, this.spoken);
    container.append(this.root);
  }

  // A canvas in place of the one before: a canvas is 2D or 3D for good.
  newCanvas() {
    const canvas = make("canvas", "canvas", { tabIndex: 0 });
    canvas.setAttribute("role", "application"); // arrow keys are ours, also where a screen reader would take them
    canvas.setAttribute("aria-describedby", this.summary.id);
    if (this.canvas) this.canvas.replaceWith(canvas);
    else this.stage.prepend(canvas);
    this.canvas = canvas;
    return canvas;
  }

  // What the pack as a whole has: `facts` as readings.js finds them.
  show({ by, scale, values, low, high, unknown, series, parallel, perModule, probes, webgl }) {
    const { texts } = this;
    this.canvas.setAttribute("aria-label", `${fill(webgl ? texts.label : texts.label_2d, { series, parallel })} ${webgl ? texts.keys : texts.keys_2d}`);
    this.quantity.textContent = texts.quantity[by];
    [this.from.textContent, this.to.textContent] = scale.map((end) => this.value(by, end));
    this.bar.style.backgroundImage = gradient(by);
    this.nothing.hidden = unknown === 0;
    this.legend.hidden = low === null;
    this.summary.textContent = this.inWords(by, values, low, high, unknown);
    const spread = by === "temperature" && probes > 0 && probes < series;
    this.note.textContent = [
      fill(texts.arrangement, { series, parallel, perModule }),
      spread ? fill(texts.probes, { probes, series }) : "",
      by === "charge" ? texts.charge_of_pack : "",
      webgl ? "" : this.missing ? texts.not_installed : texts.no_webgl,
    ].filter(Boolean).join(" ");
  }

  inWords(by, values, low, high, unknown) {
    const { texts } = this;
    if (low === null) return texts.nothing;
    if (by === "charge") return fill(texts.charge, { value: this.value(by, values[low]) });
    const spread = values[high] - values[low];
    const text = fill(texts.summary[by], {
      low: low + 1, low_value: this.value(by, values[low]), high: high + 1, high_value: this.value(by, values[high]),
      spread: by === "voltage" ? `${Math.round(spread * 1000)} mV` : this.value(by, spread),
    });
    return unknown ? `${text} ${fill(texts.unknown, { count: unknown })}` : text;
  }

  value(by, value) {
    if (value === null || value === undefined) return this.texts.no_value;
    return `${value.toLocaleString("en", { minimumFractionDigits: DIGITS[by], maximumFractionDigits: DIGITS[by] })} ${this.texts.units[by]}`;
  }

  showFlow(direction, current) {
    const { texts } = this;
    this.flow.textContent = current === null ? "" : fill(texts.flow[{ 1: "charge", "-1": "discharge", 0: "idle" }[direction]], {
      current: Math.abs(current).toLocaleString("en", { maximumFractionDigits: 1 }),
    });
  }

  // What there is to say of a cell, in the corner that is away from its place `x` (from 0 to 1); aloud where a key chose it.
  showCell(cell, x, aloud) {
    this.tip.hidden = cell === null;
    if (cell === null) return;
    const lines = [
      fill(this.texts.cell, { cell: cell.number, module: cell.module }),
      ...["voltage", "temperature", "charge"].map((by) => fill(this.texts.line[by], { value: this.value(by, cell[by]), probe: cell.probe })),
    ];
    this.tip.replaceChildren(...lines.map((line, i) => Object.assign(document.createElement(i ? "span" : "b"), { textContent: line })));
    this.tip.classList.toggle("pack3d-left", x > 0.5);
    if (aloud) this.spoken.textContent = lines.join(", ");
  }

  dispose() { this.root.remove(); }
}
