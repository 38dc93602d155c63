// Predictions beside what turned out to be.

import { el, table } from "../dom.js";
import { inWords, number, unitOf } from "../format.js";
import { t } from "../texts.js";

const DIGITS = { rul: 0 };

export class Comparison {
  constructor() {
    this.table = table("comparison", t("compare.title"), [
      [t("compare.quantity"), ""], [t("compare.predicted"), "n"], [t("compare.actual"), "n"], [t("compare.difference"), "n wide"], [t("compare.accuracy"), "n"], [t("compare.note"), "why"],
    ]);
    this.element = this.table.element;
  }

  show(comparisons, predictions) {
    this.table.fill(Object.entries(comparisons).map(([key, c]) => {
      const unit = unitOf(c.unit), digits = DIGITS[key] ?? 2;
      const value = (v) => (v === null ? "–" : `${number(v, digits)} ${unit}`);
      const { low, high } = predictions[key] ?? {};
      const span = low === undefined || low === null ? "" : el("span", { class: "wide", text: ` (${number(low)} – ${number(high)})` });
      return [t(`compare.${key}`), el("span", {}, value(c.predicted), span), value(c.actual), value(c.difference), c.accuracy === null ? "–" : `${number(c.accuracy, 1)} %`, inWords(c.reason ?? "")];
    }));
  }
}
