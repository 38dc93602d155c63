// Alerts from the gateway, whichever of its versions: active ones and those that are over.

import { get } from "../api.js";

export async function activeAlerts(limit) {
  return get(`api/alerts?state=active&limit=${limit}`);
}

// Active ones, and of the last changes what is over.
export async function allAlerts(limit, pack) {
  const of = pack ? `&pack=${encodeURIComponent(pack)}` : "";
  const [active, recent] = await Promise.all(["active", "recent"].map((state) => get(`api/alerts?state=${state}&limit=${limit}${of}`)));
  return [...active.alerts, ...recent.alerts.filter((alert) => alert.state === "cleared")];
}
