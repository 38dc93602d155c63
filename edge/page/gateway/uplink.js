// Connections to brokers, and what waits on this gateway's disk.

import { el, section } from "../dom.js";
import { bytes, count, duration, number } from "../format.js";
import { t } from "../texts.js";

// The nodes of brokers by their ids, which the nodes that use them name.
export const brokersOf = (flow) => new Map(flow.nodes.filter((node) => node.type === "mqtt-broker").map((node) => [node.id, node]));

export class Uplink {
  constructor() {
    this.list = el("ul", { id: "uplink", class: "uplink" });
    this.text = el("p", { class: "dim small" });
    this.part = section("uplink-section", t("uplink.title"), this.list, this.text);
    this.element = this.part.element;
  }

  show(flow, spool) {
    const known = brokersOf(flow), of = new Map(flow.nodes.map((node) => [node.id, node.broker]));
    const brokers = flow.nodes.filter((node) => node.type === "mqtt-broker").map(broker);
    const sinks = spool.sinks.filter((sink) => sink.spool || sink.circuit !== "closed").map((sink) => waiting(sink, known.get(of.get(sink.id))));
    this.list.replaceChildren(...brokers, ...sinks);
    this.part.note.textContent = spool.backlog_messages
      ? t("uplink.waits", { n: number(spool.backlog_messages), size: bytes(spool.backlog_bytes) }) : t("uplink.nothing");
    this.text.textContent = spool.explanation;
  }
}

const item = (good, name, text, facts) => el("li", {}, el("span", { class: `dot ${good}`, "aria-hidden": "true" }),
  el("div", {}, el("p", {}, el("b", { text: name }), ` ${text}`), facts.length ? el("p", { class: "dim", text: facts.join(" · ") }) : null));

function broker({ name, status }) {
  const facts = [];
  if (status.received !== undefined) facts.push(t("uplink.counts", { received: number(status.received), published: number(status.published), confirmed: number(status.confirmed) }));
  if (status.reconnects) facts.push(count(status.reconnects, "uplink.reconnects"));
  const text = status.connected ? t("uplink.connected", { address: status.address }) : t("uplink.not_connected", { error: status.error || status.address || t("uplink.starting") });
  return item(status.connected ? "good" : "poor", name || t("uplink.broker"), text, facts);
}

function waiting({ name, type, circuit, away_s: away, error, waiting_messages: memory, spool }, broker) {
  const facts = [], lost = Object.entries(spool?.lost ?? {}).filter(([, n]) => n);
  if (memory) facts.push(t("uplink.memory", { n: number(memory) }));
  if (spool) facts.push(t("uplink.disk", { n: number(spool.messages), size: bytes(spool.bytes) }));
  if (spool?.oldest_ms) facts.push(t("uplink.oldest", { age: duration(Math.max(0, (Date.now() - spool.oldest_ms) / 1000)) }));
  for (const [reason, n] of lost) facts.push(t("uplink.lost", { n: number(n), reason }));
  if (spool?.disk_error) facts.push(spool.disk_error);
  const open = circuit === "closed", cut = broker && !broker.status.connected;
  return item(!open || cut || spool?.disk_error ? "poor" : spool?.messages || lost.length ? "fair" : "good", name || type, !open ? t("flow.away", { time: duration(away), error }) : t(cut ? "uplink.no_broker" : "uplink.takes"), facts);
}
