// The flow, node by node, with message rates: where the numbers stop, the fault is.

import { classes, el, section, table } from "../dom.js";
import { count, duration, moment, number, rate } from "../format.js";
import { t } from "../texts.js";
import { brokersOf } from "./uplink.js";

const CONFIGURATIONS = new Set(["tls-config", "mqtt-broker"]);

export class FlowTable {
  constructor() {
    this.table = table("flow", t("flow.title"), [
      [t("flow.node"), ""], [t("flow.rate"), "n"], [t("flow.messages"), "n wide"], [t("flow.failed"), "n"], [t("flow.waiting"), "n wide"], [t("flow.on_disk"), "n"], [t("flow.cost"), "n wide"],
      [t("flow.state"), "why"],
    ]);
    this.notices = el("ul", { class: "notices", hidden: true });
    this.part = section("flow-section", t("flow.title"), this.notices, this.table.element);
    this.element = this.part.element;
    this.before = null;
    this.rates = { in: null, out: null };
  }

  show(flow, spool) {
    const now = performance.now(), before = this.before, sinks = new Map(spool.sinks.map((sink) => [sink.id, sink])), brokers = brokersOf(flow);
    this.before = { now, counts: new Map(flow.nodes.map((node) => [node.id, node.messages_in])) };
    const rateOf = (node) => {
      const was = before?.counts.get(node.id);
      return was === undefined || now === before.now ? null : Math.max(0, ((node.messages_in - was) / (now - before.now)) * 1000);
    };
    const sum = (nodes) => (before ? nodes.reduce((total, node) => total + (rateOf(node) ?? 0), 0) : null);
    this.rates = { in: sum(flow.nodes.filter((node) => node.type === "mqtt in")), out: sum(flow.nodes.filter((node) => node.type === "mqtt out")) };
    this.table.fill(flow.nodes.filter((node) => !CONFIGURATIONS.has(node.type)).map((node) => line(node, rateOf(node), sinks.get(node.id), brokers.get(node.broker))));
    this.told(flow);
  }

  told(flow) {
    const parts = [t("flow.revision", { revision: flow.revision }), count(flow.in_flight_batches, "flow.under_way")];
    if (flow.stalls) parts.push(count(flow.stalls, "flow.stalls"));
    for (const [reason, n] of Object.entries(flow.dropped)) parts.push(t("flow.dropped", { n: number(n), reason }));
    this.part.note.textContent = parts.join(" · ");
    const notices = [...(flow.state === "stop" ? [t("flow.stopped")] : []), ...(flow.notices ?? [])];
    this.notices.hidden = !notices.length;
    this.notices.replaceChildren(...notices.map((text) => el("li", { text })));
  }
}

// What a node does now, and whether that is bad.
function stateOf(node, sink, broker) {
  if (broker && !broker.status.connected) return [t("uplink.no_broker"), true];
  if (sink && sink.circuit !== "closed") return [t("flow.away", { time: duration(sink.away_s), error: sink.error || node.error }), true];
  if (sink?.spool?.messages) return [t("flow.backlog"), false];
  if (node.error) return [node.error, true];
  return [node.last_error ? t("flow.last_error", { at: moment(node.last_error_ms), error: node.last_error }) : t("flow.ok"), false];
}

function line(node, perSecond, sink, broker) {
  const [state, bad] = stateOf(node, sink, broker), warn = (value) => {
    const element = el("span", { text: number(value) });
    classes(element, value ? "fair" : "");
    return element;
  };
  const name = el("span", {}, node.name || node.type, node.name && node.name !== node.type ? el("span", { class: "dim", text: ` ${node.type}` }) : null);
  const cost = !node.wires.flat().length ? "" : node.messages_in ? number((node.busy_s / node.messages_in) * 1e6, 1) : "–";
  return [
    name, rate(perSecond), number(node.messages_in), warn(node.failures), number(node.waiting), sink?.spool ? warn(sink.spool.messages) : "", cost,
    el("span", { class: bad ? "poor" : "dim", "data-calm": state === t("flow.ok"), text: bad ? `▲ ${state}` : state }),
  ];
}
