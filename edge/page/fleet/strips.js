// How many packs are in which band, by quantity.

import { el, say } from "../dom.js";
import { number } from "../format.js";
import { t } from "../texts.js";

const QUANTITIES = ["soc", "temperature", "soh", "rul", "failure"];
const GRADES = ["good", "fair", "poor", "unknown"];

export class Strips {
  constructor() {
    this.parts = new Map();
    this.element = el("ul", { id: "bands", class: "strips", "aria-label": t("strips.label"), hidden: true }, QUANTITIES.map((quantity) => this.strip(quantity)));
  }

  strip(quantity) {
    const bars = Object.fromEntries(GRADES.map((grade) => [grade, el("i", { class: grade })]));
    const words = el("span", { class: "words" });
    this.parts.set(quantity, { bars, words });
    return el("li", { "data-quantity": quantity }, el("span", { class: "dim", text: t(`quantity.${quantity}`) }), el("span", { class: "strip", "aria-hidden": "true" }, Object.values(bars)), words);
  }

  // `counts` is {soc: {good, fair, poor, unknown}, …}; null where the gateway does not say.
  show(counts) {
    this.element.hidden = !counts?.soc;
    if (this.element.hidden) return;
    for (const [quantity, { bars, words }] of this.parts) {
      const of = counts[quantity] ?? {};
      for (const grade of GRADES) bars[grade].style.flexGrow = of[grade] ?? 0;
      const told = GRADES.filter((grade) => of[grade]).map((grade) => t(`strips.${grade}`, { n: number(of[grade]) }));
      say(words, told.join(" · "));
    }
  }
}
