// Charge and discharge sessions, the newest first.

import { getOrNull } from "../api.js";
import { el, table } from "../dom.js";
import { duration, number, packPath, when, withUnit } from "../format.js";
import { t } from "../texts.js";

const SHOWN = 20;

export class Sessions {
  constructor(name) {
    this.name = name;
    this.table = table("sessions-table", t("sessions.title"), [
      [t("sessions.kind"), ""], [t("sessions.start"), ""], [t("sessions.length"), "n wide"], [t("sessions.soc"), "n"], [t("sessions.energy"), "n"], [t("sessions.hottest"), "n wide"],
      [t("sessions.soh"), "n wide"], [t("sessions.note"), "why"],
    ]);
    this.empty = el("p", { class: "dim none", text: t("sessions.none") });
    this.element = el("div", {}, this.table.element, this.empty);
    this.table.element.hidden = true;
  }

  // The sessions, so that others may draw them.
  async refresh() {
    const answer = await getOrNull(packPath(this.name, `sessions?limit=${SHOWN}`));
    const sessions = answer?.sessions ?? [];
    this.empty.textContent = answer ? t("sessions.none") : t("unavailable");
    this.empty.hidden = sessions.length > 0;
    this.table.element.hidden = !sessions.length;
    this.table.fill(sessions.map(line));
    return sessions;
  }
}

const socOf = ({ soc_from_pct: from, soc_to_pct: to }) => (from === null && to === null ? "–" : `${number(from)} → ${number(to)} %`);

function line(session) {
  const length = session.end_ms === null ? t("sessions.running") : duration((session.end_ms - session.start_ms) / 1000);
  return [
    t(`kind.${session.kind}`), when(session.start_ms), length, socOf(session), withUnit(session.energy_kwh, 1, "kWh"),
    withUnit(session.temp_max_c, 1, "°C"), withUnit(session.soh_measured_pct, 1, "%"), session.reason ?? "",
  ];
}
