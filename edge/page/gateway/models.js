// The models and their cards: what each answers, how well, and where it is weak.

import { el, section } from "../dom.js";
import { bytes, number, when } from "../format.js";
import { t } from "../texts.js";

const SCORES = 6;

export class Models {
  constructor() {
    this.list = el("div", { id: "models", class: "models" });
    this.part = section("models-section", t("models.title"), this.list);
    this.element = this.part.element;
    this.cards = new Map();
  }

  show({ models, temperature_errors: errors }) {
    this.part.note.textContent = errors.compared
      ? t("models.errors", { n: number(errors.compared), error: number(errors.mean_absolute_c, 2) }) : "";
    for (const model of models) {
      const key = `${model.name} ${model.hash} ${model.loaded}`;
      const known = this.cards.get(model.name);
      if (known?.key !== key) this.place(model, key, known);
      this.cards.get(model.name).count.textContent = t("models.predictions", { n: number(model.predictions) });
    }
  }

  place(model, key, known) {
    const count = el("span", { class: "dim" }), element = card(model, count);
    if (known) known.element.replaceWith(element);
    else this.list.append(element);
    this.cards.set(model.name, { key, count, element });
  }
}

function card(model, count) {
  const of = model.card ?? {}, plain = (value) => typeof value === "string" && value;
  const head = el("summary", {}, el("b", { text: t(`compare.${model.name}`) }), el("code", { text: model.hash ?? "–" }), count,
    model.loaded ? null : el("span", { class: "poor", text: `▲ ${model.reason}` }));
  const facts = [["target", of.target], ["horizon", of.horizon], ["weak", of.weak], ["trained_on", of.trained_on], ["split", of.split],
    ["created", of.created && when(Date.parse(of.created))], ["size", model.size_bytes && bytes(model.size_bytes)]].filter(([, value]) => plain(value));
  return el("details", { "data-testid": `model-${model.name}` }, head,
    el("dl", {}, facts.map(([name, value]) => [el("dt", { text: t(`card.${name}`) }), el("dd", { text: value })])), scores(of), bars(of));
}

function scores(of) {
  const found = Object.entries(of.scores ?? {}).filter(([, score]) => typeof score?.value === "number").slice(0, SCORES);
  if (!found.length) return null;
  const told = found.map(([name, { value, ci95 }]) => {
    const interval = ci95?.length ? ` (${number(ci95[0], 2)} – ${number(ci95[1], 2)})` : "";
    return el("li", {}, el("span", { class: "dim", text: `${name.replaceAll("_", " ")} ` }), `${number(value, 2)}${interval}`);
  });
  return el("div", {}, el("h3", { text: t("card.scores") }), el("ul", { class: "scores" }, told));
}

// What was asked of it before it was released, and whether it holds.
function bars(of) {
  if (!of.bars?.length) return null;
  const told = of.bars.map((bar) => el("li", { class: bar.passed ? "" : "fair" }, `${bar.passed ? "✓" : "✗"} ${bar.score.replaceAll("_", " ")} ${bar.rule} ${bar.unit}`,
    el("span", { class: "hide", text: t(bar.passed ? "card.passed" : "card.failed") })));
  return el("div", {}, el("h3", { text: t("card.bars") }), el("ul", { class: "scores" }, told));
}
