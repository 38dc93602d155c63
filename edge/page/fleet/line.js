// One pack as a line of the list. A line is filled anew when another pack, or other values, are in its place.

import { classes, el, say } from "../dom.js";
import { grade, inWords, number, packHash, stateOf, withUnit } from "../format.js";
import { t } from "../texts.js";

// Key of the title, class: `n` are numbers, `wide` is left out on narrow screens.
export const COLUMNS = [
  ["pack", "name"], ["state", "state"], ["soc", "n soc"], ["temp", "n temp"], ["temp_ahead", "n wide"], ["soh", "n soh"], ["rul", "n wide rul"],
  ["failure", "n failure"], ["power", "n wide"], ["why", "why"],
];

const GRADED = [
  // column, quantity of the bands, value of the row, digits, unit
  [2, "soc", "soc_pct", 0, "%"], [3, "temperature", "temp_c", 1, "°C"], [4, "temperature", "temp_predicted_c", 1, "°C"],
  [5, "soh", "soh_predicted_pct", 1, "%"], [6, "rul", "rul_efc", 0, ""], [7, "failure", "failure_pct", 1, "%"],
];

const LABELLED = [[5, "soh"], [7, "failure"]]; // where a narrow screen has no heads

const SHORT_NAME = 12, NAME_END = 6; // of a vehicle's number the last digits tell one from another: a name is cut in its middle

export class PackLine {
  constructor() {
    [this.fleet, this.pack, this.end] = [el("span", { class: "of" }), el("span", { class: "first" }), el("span", { class: "last" })];
    this.link = el("a", { tabindex: "-1" }, this.fleet, this.pack, this.end);
    this.dot = el("span", { class: "dot", "aria-hidden": "true" });
    this.cells = COLUMNS.map(([key, name], i) => el("div", { role: i ? "gridcell" : "rowheader", class: name, "data-col": key }));
    this.cells[0].append(this.dot, this.link);
    this.bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
    this.values = new Map(GRADED.map(([column]) => [column, el("span")]));
    for (const [column, value] of this.values) this.cells[column].append(value);
    this.cells[2].prepend(this.bar);
    for (const [column, key] of LABELLED) this.cells[column].dataset.label = t(`short.${key}`);
    this.element = el("div", { class: "line", role: "row" }, this.cells);
    this.shown = undefined;
  }

  show(row) {
    if (row === this.shown) return;
    this.shown = row;
    if (row === null) return this.wait();
    const away = row.online === false || row.silent;
    classes(this.element, away ? "line away" : "line");
    this.element.dataset.pack = row.name;
    say(this.fleet, `${row.fleet}/`);
    const cut = row.pack.length > SHORT_NAME ? row.pack.length - NAME_END : row.pack.length;
    say(this.pack, row.pack.slice(0, cut));
    say(this.end, row.pack.slice(cut));
    this.link.title = row.name;
    this.link.href = packHash(row.name);
    classes(this.dot, `dot ${levelOf(row)}`);
    say(this.cells[1], stateOf(row));
    for (const [column, quantity, key, digits, unit] of GRADED) this.value(column, quantity, row[key], digits, unit);
    this.bar.firstChild.style.width = `${row.soc_pct ?? 0}%`;
    classes(this.bar, `bar ${grade("soc", row.soc_pct)}`);
    say(this.cells[8], withUnit(row.power_kw, 1, "kW"));
    say(this.cells[9], inWords((row.worries ?? []).join("; ")));
  }

  // Colour says the grade; for poor values so does a sign.
  value(column, quantity, value, digits, unit) {
    const of = grade(quantity, value), element = this.values.get(column);
    classes(element, `value ${of}`);
    say(element, value === null || value === undefined ? "–" : `${of === "poor" ? "▲ " : ""}${number(value, digits)}${unit ? ` ${unit}` : ""}`);
  }

  wait() {
    classes(this.element, "line waiting");
    delete this.element.dataset.pack;
    say(this.fleet, "");
    say(this.pack, t("fleet.loading"));
    say(this.end, "");
    this.link.removeAttribute("title");
    this.link.removeAttribute("href");
    for (const cell of [this.cells[1], this.cells[8], this.cells[9], ...this.values.values()]) say(cell, "");
    classes(this.dot, "dot");
    classes(this.bar, "bar");
  }
}

// How the dot before the name looks: what the pack is counted as above the list.
const levelOf = (row) => (row.grade === "good" && (row.online === false || row.silent) ? "" : row.grade); // grey too where nothing is known
