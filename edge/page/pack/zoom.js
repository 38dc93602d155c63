// The part of time that all charts of a pack show; null is all of it, and then it goes on with the newest point.

import { el } from "../dom.js";
import { t } from "../texts.js";

const LEAST_S = 20;

export class Zoom {
  constructor(changed) {
    this.changed = changed;
    this.range = null;
    this.extent = () => null; // {min, max} of all there is
    this.reset = el("button", { type: "button", id: "zoom-reset", text: t("zoom.reset"), hidden: true, on: { click: () => this.set(null) } });
    const button = (id, text, label, factor) => el("button", { type: "button", id, text, "aria-label": label, on: { click: () => this.scale(factor) } });
    this.element = el("div", { class: "zoom", role: "group", "aria-label": t("zoom.label") },
      this.reset, button("zoom-out", "−", t("zoom.out"), 2), button("zoom-in", "+", t("zoom.in"), 0.5));
  }

  set(range) {
    this.range = range && range.max - range.min >= LEAST_S ? range : null;
    this.reset.hidden = this.range === null;
    this.changed();
  }

  scale(factor) {
    const all = this.extent();
    if (!all) return;
    const { min, max } = this.range ?? all, half = ((max - min) * factor) / 2, middle = this.range || factor > 1 ? (min + max) / 2 : max - half;
    this.within(middle - half, middle + half);
  }

  move(part) {
    if (!this.range) return;
    const { min, max } = this.range, step = (max - min) * part;
    this.within(min + step, max + step);
  }

  within(min, max) {
    const all = this.extent(), width = Math.max(max - min, LEAST_S);
    if (width >= all.max - all.min) return this.set(null);
    const from = Math.min(Math.max(min, all.min), all.max - width);
    this.set({ min: from, max: from + width });
  }

  key(event) {
    const action = {
      "+": () => this.scale(0.5), "-": () => this.scale(2), 0: () => this.set(null), Escape: () => this.set(null),
      ArrowLeft: () => this.move(-0.25), ArrowRight: () => this.move(0.25),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }
}
