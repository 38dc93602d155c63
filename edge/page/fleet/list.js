// A list of any length as a grid: only the rows that are in sight are elements, the page itself scrolls.

import { el } from "../dom.js";
import { t } from "../texts.js";
import { COLUMNS, PackLine } from "./line.js";

const SPARE = 8; // rows beyond both edges
const ASK_MS = 120;
const QUIET_MS = 2000; // after somebody touched the list its order stays for so long

export class PackList {
  constructor(model, opened) {
    this.model = model;
    this.opened = opened;
    this.lines = new Map(); // by index
    this.focus = 0;
    this.touched = -QUIET_MS;
    this.body = el("div", { class: "rows", role: "rowgroup" });
    const heads = COLUMNS.map(([key, name]) => el("div", { role: "columnheader", class: name, text: t(`column.${key}`) }));
    const head = el("div", { class: "heads", role: "rowgroup" }, el("div", { class: "line", role: "row", "aria-rowindex": "1" }, heads));
    this.element = el("div", {
      id: "packs", class: "list", role: "grid", "aria-label": t("fleet.list"), "aria-colcount": COLUMNS.length,
      on: { keydown: (event) => this.key(event), click: (event) => this.click(event), focusin: (event) => this.focused(event) },
    }, head, this.body);
    this.draw = this.draw.bind(this);
    this.later = () => { cancelAnimationFrame(this.frame); this.frame = requestAnimationFrame(this.draw); };
    this.touch = () => { this.touched = performance.now(); };
  }

  start() {
    addEventListener("scroll", this.later, { passive: true });
    addEventListener("resize", this.later, { passive: true });
    for (const event of ["pointermove", "touchstart", "keydown"]) this.element.addEventListener(event, this.touch, { passive: true });
  }

  stop() {
    removeEventListener("scroll", this.later);
    removeEventListener("resize", this.later);
    cancelAnimationFrame(this.frame);
    clearTimeout(this.asking);
  }

  get quiet() { return performance.now() - this.touched > QUIET_MS; }

  // The indices in sight.
  range() {
    const height = this.rowHeight(), top = this.body.getBoundingClientRect().top, total = this.model.total ?? 0;
    const from = Math.min(Math.max(0, Math.floor(-top / height)), Math.max(0, total - 1));
    return [from, Math.min(total, from + Math.ceil(innerHeight / height) + 1)];
  }

  rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 44;
  }

  draw() {
    const total = this.model.total ?? 0, height = this.rowHeight(), [first, last] = this.range();
    const from = Math.max(0, first - SPARE), to = Math.min(total, last + SPARE);
    this.element.setAttribute("aria-rowcount", total + 1);
    this.body.style.height = `${total * height}px`;
    this.ask(from, to);
    for (const [index, line] of this.lines) {
      if (index >= from && index < to) continue;
      if (line.element.contains(document.activeElement)) this.element.focus({ preventScroll: true });
      line.element.remove();
      this.lines.delete(index);
    }
    for (let index = from; index < to; index += 1) this.place(index, height);
  }

  // Rows that only fly by are not asked for.
  ask(from, to) {
    this.asked = [from, to];
    this.asking ??= setTimeout(() => {
      this.asking = null;
      this.model.want(...this.asked);
    }, ASK_MS);
  }

  place(index, height) {
    let line = this.lines.get(index);
    if (!line) {
      line = new PackLine();
      line.element.setAttribute("aria-rowindex", index + 2);
      this.lines.set(index, line);
      const after = this.lines.get(index - 1)?.element; // reading order is the order of the elements
      if (after) after.after(line.element);
      else this.body.prepend(line.element);
    }
    line.element.style.transform = `translateY(${index * height}px)`;
    line.link.tabIndex = index === this.focus ? 0 : -1;
    line.show(this.model.row(index));
  }

  click(event) {
    const row = event.target.closest(".rows .line");
    if (row && !event.target.closest("a")) row.querySelector("a").click();
  }

  focused(event) {
    const index = [...this.lines].find(([, line]) => line.link === event.target)?.[0];
    if (index !== undefined) this.setFocus(index);
  }

  setFocus(index) {
    this.focus = index;
    for (const [i, line] of this.lines) line.link.tabIndex = i === index ? 0 : -1;
  }

  key(event) {
    const [first, last] = this.range(), total = this.model.total ?? 0, leap = Math.max(1, last - first - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: leap, PageUp: -leap, Home: -total, End: total }[event.key];
    if (step === undefined || event.ctrlKey || event.altKey || event.metaKey || !total) return;
    event.preventDefault();
    this.moveTo(Math.min(Math.max(this.focus + step, 0), total - 1));
  }

  moveTo(index) {
    const height = this.rowHeight(), top = this.body.getBoundingClientRect().top + index * height;
    const edge = this.element.firstChild.getBoundingClientRect().height;
    if (top < edge) scrollBy({ top: top - edge - 4, behavior: "instant" });
    else if (top + height > innerHeight) scrollBy({ top: top + height - innerHeight + 4, behavior: "instant" });
    this.draw();
    this.setFocus(index);
    this.lines.get(index)?.link.focus({ preventScroll: true });
  }
}
