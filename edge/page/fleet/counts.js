// How many packs are well: a bar by points of worry, and the same in words; apart from that who is not heard of, and open alerts.

import { el, say } from "../dom.js";
import { count, number } from "../format.js";
import { t } from "../texts.js";

const GRADES = ["poor", "fair", "unknown", "good"], FIRST = new Set(["poor", "fair", "good"]); // those are shown also where there is none
const AWAY = ["silent", "offline"], ALERTS = ["alerts"]; // of the same packs; not of packs at all

export class Counts {
  constructor() {
    this.bars = GRADES.map((grade) => el("i", { class: grade }));
    this.words = Object.fromEntries([...GRADES, ...AWAY, ...ALERTS].map((key) => [key, el("b")]));
    const dot = (key) => (GRADES.includes(key) ? el("span", { class: `dot ${key}`, "aria-hidden": "true" }) : null);
    const item = (key) => el("li", { "data-count": key }, dot(key), this.words[key], el("span", { class: "dim", text: t(`counts.${key}`) }));
    this.total = el("b");
    this.lists = [GRADES, AWAY, ALERTS].map((keys) => el("ul", {}, keys.map(item)));
    this.lists[1].prepend(el("li", { class: "dim", text: t("counts.of_them") }));
    this.element = el("section", { id: "bands", class: "counts", "aria-label": t("counts.label"), hidden: true },
      el("p", { class: "total" }, this.total), el("div", { class: "strip", "aria-hidden": "true" }, this.bars), this.lists);
  }

  // `fleet` is {packs, poor, fair, good, unknown, silent, offline, alerts, acknowledged}.
  show(fleet) {
    this.element.hidden = !fleet?.packs;
    if (this.element.hidden) return;
    const numbers = { ...fleet, alerts: fleet.alerts - fleet.acknowledged };
    say(this.total, count(fleet.packs, "packs"));
    GRADES.forEach((grade, i) => { this.bars[i].style.flexGrow = numbers[grade]; this.bars[i].hidden = !numbers[grade]; });
    for (const [key, element] of Object.entries(this.words)) {
      say(element, number(numbers[key]));
      element.parentElement.hidden = !FIRST.has(key) && !numbers[key];
    }
    this.lists[1].hidden = !AWAY.some((key) => numbers[key]);
    this.lists[2].hidden = !numbers.alerts;
  }
}
