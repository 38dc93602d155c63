// The cells: a heat-map by voltage or temperature, and the pack in 3D where somebody asks for it.

import { getOrNull } from "../api.js";
import { el, say } from "../dom.js";
import { moment, number, packPath } from "../format.js";
import { colourOf, gradient } from "../pack3d/colours.js";
import { extremes, scaleOf, valuesOf } from "../pack3d/readings.js";
import { TEXTS, t } from "../texts.js";
import { Away, arriving } from "../vendored.js";

const BY = ["voltage", "temperature", "charge"];
const DIGITS = { voltage: 3, temperature: 1, charge: 0 }, UNITS = { voltage: "V", temperature: "°C", charge: "%" };

export class Cells {
  constructor(name) {
    this.name = name;
    this.by = "voltage";
    this.view = "map";
    this.answer = null;
    this.row = {};
    this.tabs = this.choice("cells-view", ["map", "3d"], (view) => this.open(view));
    this.quantities = this.choice("cells-by", BY, (by) => { this.by = by; this.show(); });
    this.map = el("div", { id: "cells-map", class: "heat", role: "img", tabindex: "0", on: { keydown: (event) => this.key(event), pointerover: (event) => this.over(event) } });
    this.scale = el("p", { class: "scale", "aria-hidden": "true" }, el("span"), el("i"), el("span"));
    this.told = el("p", { id: "cells-told", class: "told", role: "status" });
    this.text = el("p", { id: "cells-text", class: "dim" });
    this.space = el("div", { id: "pack3d", class: "space", hidden: true });
    this.element = el("div", {}, el("div", { class: "tools" }, this.tabs.element, this.quantities.element), this.text, this.map, this.scale, this.told, this.space);
    this.tabs.press("map");
    this.quantities.press("voltage");
  }

  choice(id, keys, chosen) {
    const buttons = keys.map((key) => el("button", { type: "button", id: `${id}-${key}`, text: t(`cells.${key}`), on: { click: () => { press(key); chosen(key); } } }));
    const press = (key) => buttons.forEach((button, i) => button.setAttribute("aria-pressed", keys[i] === key));
    return { press, element: el("div", { class: "choice", id, role: "group", "aria-label": t(`cells.${id.slice(6)}`) }, buttons) };
  }

  async refresh(row) {
    this.row = row ?? this.row;
    this.answer = await getOrNull(packPath(this.name, "cells"));
    if (this.answer && !this.built) this.build();
    this.show();
    if (this.view === "3d" && this.failed) this.open("3d");
  }

  build() {
    const series = this.answer.series ?? this.answer.voltages_v.length;
    if (!series) return;
    this.built = series;
    this.map.replaceChildren(...Array.from({ length: series }, (_, i) => el("i", { "data-cell": i })));
  }

  get input() {
    const { voltages_v = [], temps_c = [] } = this.answer ?? {};
    return { voltages_v, temps_c, soc_pct: this.row.soc_pct ?? null, current_a: this.row.current_a ?? null, by: this.by };
  }

  show() {
    const none = !this.answer?.voltages_v.length && !this.answer?.temps_c.length;
    const is3d = this.view === "3d";
    this.map.hidden = this.scale.hidden = this.told.hidden = none || is3d;
    this.text.hidden = is3d && !none; // the 3D view has its own
    this.space.hidden = !is3d;
    if (none) say(this.text, this.answer ? (this.answer.reason ?? t("cells.none")) : t("unavailable"));
    else this.paint();
    this.pack?.update(this.input);
  }

  paint() {
    this.values = valuesOf(this.input, this.built);
    const { low, high } = extremes(this.values), range = scaleOf(this.by, this.values);
    this.values.forEach((value, i) => { this.map.children[i].style.backgroundColor = `rgb(${colourOf(this.by, value, range).join(" ")})`; });
    const [from, bar, to] = this.scale.children;
    bar.style.backgroundImage = gradient(this.by);
    say(from, this.value(range[0]));
    say(to, this.value(range[1]));
    const words = { spread: number(this.answer.spread_mv), at: moment(this.answer.ts_ms) };
    const summary = low === null ? t("cells.none") : t("cells.summary", { low: low + 1, high: high + 1, low_value: this.value(this.values[low]), high_value: this.value(this.values[high]) });
    say(this.text, [summary, this.by === "voltage" && this.answer.spread_mv !== null ? t("cells.spread", words) : "", t("cells.at", words), this.answer.reason ?? ""].filter(Boolean).join(" "));
    this.map.setAttribute("aria-label", `${summary} ${t("cells.keys")}`);
    [...this.map.children].forEach((cell, i) => cell.classList.toggle("end", i === low || i === high));
    if (this.chosen !== undefined) this.tell(this.chosen);
  }

  value(v) { return v === null ? "–" : `${number(v, DIGITS[this.by])} ${UNITS[this.by]}`; }

  tell(cell) {
    this.map.querySelector(".chosen")?.classList.remove("chosen");
    this.chosen = cell;
    this.map.children[cell]?.classList.add("chosen");
    say(this.told, t("cells.cell", { n: cell + 1, value: this.value(this.values[cell] ?? null) }));
  }

  over(event) {
    if (event.target.dataset.cell) this.tell(Number(event.target.dataset.cell));
  }

  key(event) {
    const columns = Math.max(1, getComputedStyle(this.map).gridTemplateColumns.split(" ").length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (!step || !this.values) return;
    event.preventDefault();
    this.tell(Math.min(Math.max((this.chosen ?? -step) + step, 0), this.values.length - 1));
  }

  // The 3D view and three.js are loaded when they are asked for.
  async open(view) {
    this.view = view;
    this.show();
    if (view !== "3d" || this.pack || this.opening) return;
    this.opening = true;
    this.failed = false;
    this.space.textContent = t("fleet.loading");
    try {
      const { createPack3D } = await arriving(import("../pack3d/pack3d.js"));
      this.space.replaceChildren();
      this.pack = await createPack3D(this.space, { texts: TEXTS });
      if (this.gone) return this.pack.dispose();
      this.pack.setLayout({ series: this.answer?.series ?? this.built ?? 96, parallel: this.answer?.parallel ?? 1 });
      this.show();
    } catch (error) {
      this.failed = error instanceof Away;
      this.space.textContent = this.failed ? t("cells.away") : t("cells.no_3d", { error: error.message });
    } finally {
      this.opening = false;
    }
  }

  dispose() {
    this.gone = true;
    this.pack?.dispose();
  }
}
