// All alerts of this gateway: those that are active, then what is over.

import { follow, on } from "../api.js";
import { el, section } from "../dom.js";
import { number } from "../format.js";
import { t } from "../texts.js";
import { AlertList } from "./list.js";
import { allAlerts } from "./read.js";

const SHOWN = 200;

export function alertsView(root) {
  const list = new AlertList("alerts", { named: true });
  const only = el("select", { id: "alerts-filter", "aria-label": t("alerts.filter") }, ["all", "open", "critical"].map((key) => el("option", { value: key, text: t(`alerts.only_${key}`) })));
  const empty = el("p", { class: "dim none", text: t("alerts.none") });
  const part = section("alerts-section", t("alerts.title"), empty, list.element);
  part.head.append(only);
  root.append(el("h1", { class: "hide", text: t("alerts.title") }), part.element);
  let known = [];
  follow("?packs=");

  const wanted = { all: () => true, open: (a) => a.state !== "cleared" && !a.acknowledged, critical: (a) => a.severity === "critical" };
  function show() {
    const shown = known.filter(wanted[only.value]);
    list.show(shown);
    empty.hidden = shown.length > 0;
    part.note.textContent = t("alerts.active", { n: number(known.filter((a) => a.state !== "cleared").length) });
  }

  async function refresh() {
    known = await allAlerts(SHOWN);
    show();
  }

  only.addEventListener("change", show);
  const off = on("alerts", () => refresh().catch(() => {}));
  return { title: t("alerts.title"), refresh, stop: off };
}
