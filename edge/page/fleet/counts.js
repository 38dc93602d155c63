// How many packs are well: a bar by points of worry, and the same in words with who is not heard of.

import { el, say } from "../dom.js";
import { count, number } from "../format.js";
import { t } from "../texts.js";

const GRADES = ["poor", "fair", "good"];

export class Counts {
  constructor() {
    this.bars = GRADES.map((grade) => el("i", { class: grade }));
    this.words = Object.fromEntries([...GRADES, "silent", "offline", "alerts"].map((key) => [key, el("b")]));
    const item = (key) => el("li", { "data-count": key }, el("span", { class: `dot ${GRADES.includes(key) ? key : ""}`, "aria-hidden": "true" }), this.words[key], el("span", { class: "dim", text: t(`counts.${key}`) }));
    this.total = el("b");
    this.element = el("section", { id: "bands", class: "counts", "aria-label": t("counts.label"), hidden: true },
      el("p", { class: "total" }, this.total), el("div", { class: "strip", "aria-hidden": "true" }, this.bars), el("ul", {}, Object.keys(this.words).map(item)));
  }

  // `fleet` is {packs, poor, fair, good, silent, offline, alerts}.
  show(fleet) {
    this.element.hidden = !fleet?.packs;
    if (this.element.hidden) return;
    say(this.total, count(fleet.packs, "packs"));
    GRADES.forEach((grade, i) => { this.bars[i].style.flexGrow = fleet[grade]; });
    for (const [key, element] of Object.entries(this.words)) {
      say(element, number(fleet[key]));
      element.parentElement.hidden = !GRADES.includes(key) && !fleet[key];
    }
  }
}
