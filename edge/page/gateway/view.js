// The gateway: facts, flow with message rates, uplink and spool, models.

import { follow, get } from "../api.js";
import { el, say } from "../dom.js";
import { bytes, duration, number, rate } from "../format.js";
import { t } from "../texts.js";
import { FlowTable } from "./flow.js";
import { Models } from "./models.js";
import { Uplink } from "./uplink.js";

const TILES = ["in", "out", "waits", "packs", "messages", "up", "version"];
const SLOW_ROUNDS = 4;

export function gatewayView(root, _, shared) {
  const flow = new FlowTable(), uplink = new Uplink(), models = new Models();
  const tiles = Object.fromEntries(TILES.map((key) => [key, el("b")]));
  root.append(
    el("h1", { class: "hide", text: t("gateway.title") }),
    el("div", { id: "facts", class: "tiles" }, TILES.map((key) => el("div", { class: "tile", "data-testid": `tile-${key}` }, el("span", { class: "dim", text: t(`tile.${key}`) }), tiles[key]))),
    flow.element, uplink.element, models.element,
    el("p", { class: "links" }, shared.links()),
  );
  let round = 0;
  follow("?packs="); // whether the gateway is there; no rows

  async function refresh() {
    const slow = round % SLOW_ROUNDS === 0;
    round += 1;
    const [running, spool, found] = await Promise.all([get("api/flow"), get("api/spool"), slow ? get("api/models") : null]);
    flow.show(running, spool);
    uplink.show(running, spool);
    if (found) models.show(found);
    const { health } = shared;
    const told = { in: rate(flow.rates.in), out: rate(flow.rates.out), waits: spool.backlog_messages ? `${number(spool.backlog_messages)} · ${bytes(spool.backlog_bytes)}` : "0" };
    if (health) Object.assign(told, { packs: number(health.packs), messages: number(health.messages), up: duration(health.uptime_s), version: health.version });
    for (const [key, text] of Object.entries(told)) say(tiles[key], text);
  }

  return { title: t("gateway.title"), refresh, stop: () => {} };
}
