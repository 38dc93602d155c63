// Gauges with the bands for people: a number, its grade in words, and where it stands among the bands.

import { classes, el, say } from "../dom.js";
import { bands, grade, number } from "../format.js";
import { t } from "../texts.js";

const GAUGES = [
  // quantity of the bands, value of the row, digits, unit, ends of the scale
  ["soc", "soc_pct", 0, "%", 0, 100],
  ["temperature", "temp_c", 1, "°C", 0, 80],
  ["soh", "soh_predicted_pct", 1, "%", 60, 100],
  ["rul", "rul_efc", 0, "", 0, 2000],
  ["failure", "failure_pct", 1, "%", 0, 100],
];

export class Gauges {
  constructor() {
    this.gauges = GAUGES.map(([quantity]) => this.gauge(quantity));
    this.element = el("div", { id: "gauges", class: "gauges" }, this.gauges.map((gauge) => gauge.element));
  }

  gauge(quantity) {
    const value = el("b", {}), word = el("span", { class: "word" }), mark = el("i", { class: "mark", hidden: true });
    const track = el("div", { class: "track" }, ["first", "second", "third"].map((name) => el("span", { class: name })), mark);
    const meter = el("div", { role: "meter", "aria-label": t(`quantity.${quantity}`) }, track);
    const note = el("small", { class: "dim" });
    const element = el("div", { class: "gauge", "data-testid": `gauge-${quantity}` }, el("span", { class: "dim", text: t(`quantity.${quantity}`) }), el("p", {}, value, word), meter, note);
    return { element, value, word, mark, track, meter, note };
  }

  // `old`: how long ago the pack was heard of, where that is too long for its values to be the present.
  show(row, notes, old) {
    classes(this.element, old ? "gauges old" : "gauges");
    GAUGES.forEach(([quantity, field, digits, unit, from, to], i) => {
      const gauge = this.gauges[i], value = row[field] ?? null, of = grade(quantity, value);
      const place = (v) => (100 * (Math.min(Math.max(v, from), to) - from)) / (to - from);
      say(gauge.value, value === null ? "–" : `${number(value, digits)}${unit ? ` ${unit}` : ""}`);
      say(gauge.word, old && value !== null ? old : of ? `${of === "poor" ? "▲ " : ""}${t(`grade.${of}`)}` : t("grade.unknown"));
      classes(gauge.word, `word ${old ? "" : of}`);
      gauge.mark.hidden = value === null;
      if (value !== null) gauge.mark.style.left = `${place(value)}%`;
      this.scale(gauge.track, quantity, place);
      this.name(gauge.meter, value, old ? t("state.ago_grade", { grade: t(`grade.${of || "unknown"}`), old }) : t(`grade.${of || "unknown"}`), from, to, unit);
      say(gauge.note, notes[quantity] ?? "");
    });
  }

  scale(track, quantity, place) {
    const band = bands[quantity];
    if (!band) return;
    const [low, high] = [place(band.fair), place(band.poor)].sort((a, b) => a - b);
    const names = band.poor > band.fair ? ["good", "fair", "poor"] : ["poor", "fair", "good"];
    [low, high - low, 100 - high].forEach((width, i) => {
      track.children[i].style.width = `${width}%`;
      classes(track.children[i], names[i]);
    });
  }

  name(meter, value, grade, from, to, unit) {
    meter.setAttribute("aria-valuemin", from);
    meter.setAttribute("aria-valuemax", to);
    meter.setAttribute("aria-valuenow", value === null ? from : Math.min(Math.max(value, from), to));
    meter.setAttribute("aria-valuetext", value === null ? t("grade.unknown") : `${number(value, 1)} ${unit}, ${grade}`);
  }
}
