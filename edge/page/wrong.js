// What is wrong, in words, first on every view: the gateway's own reasons with what to do, then alerts, the worst first.

import { el, say } from "./dom.js";
import { ageOf, count, duration, packHash, valueOf } from "./format.js";
import { t } from "./texts.js";

const SHOWN = 4;
const RANK = { critical: 0, warning: 1, info: 2 };

export class Wrong {
  // `live` is the region that is read out when the sentence changes.
  constructor(root, live) {
    this.root = root;
    this.live = live;
    this.key = "";
  }

  // `brief`: where the view itself has more to say, alerts are only counted.
  // `away` are packs that are silent or offline: {total, packs: some of them, the longest first, fleet: counts}.
  show(health, alerts, { brief, away }) {
    const open = alerts.filter((alert) => !alert.acknowledged), groups = grouped(open);
    this.announce(health, groups, away);
    const key = JSON.stringify([health.status, health.reasons, health.active_alerts, groups, health.packs, brief, away && [awayText(away), awayNames(away)]]);
    if (key === this.key) return say(this.root.querySelector(".heard") ?? this.live, heardOf(health));
    this.key = key;
    const nothing = !health.reasons.length && !groups.length && !away;
    this.root.className = nothing ? "wrong fine" : `wrong ${worst(health, groups, away)}`;
    this.root.replaceChildren(nothing ? calm(health, alerts.length) : list(health, groups, alerts.length - open.length, brief, away));
  }

  announce(health, groups, away) {
    const sentences = [...health.reasons.map((reason) => reason.message), ...groups.map(groupText), ...(away ? [awayText(away)] : [])];
    say(this.live, sentences.length ? `${t("wrong.title")}: ${sentences.slice(0, SHOWN).join(". ")}` : t("wrong.nothing"));
  }
}

const heardOf = (health) => [
  count(health.packs, "packs"),
  health.newest_message_age_s === null ? t("wrong.no_message") : t("wrong.newest", { age: duration(health.newest_message_age_s) }),
].join(" · ");

function worst(health, groups, away) {
  if (health.status === "unhealthy" || groups.some((group) => group.severity === "critical")) return "poor";
  return health.reasons.length || groups.some((group) => group.severity === "warning") || away?.fleet.silent ? "fair" : "info";
}

// Alerts of one kind together: a thousand packs with one trouble are one line.
function grouped(alerts) {
  const groups = new Map();
  for (const alert of alerts) {
    const key = `${alert.severity} ${alert.code}`;
    if (!groups.has(key)) groups.set(key, { severity: alert.severity, code: alert.code, text: alert.text || alert.code, alerts: [] });
    groups.get(key).alerts.push({ name: `${alert.fleet}/${alert.pack}`, value: valueOf(alert) });
  }
  return [...groups.values()].sort((a, b) => RANK[a.severity] - RANK[b.severity] || b.alerts.length - a.alerts.length);
}

const groupText = (group) => `${count(group.alerts.length, "packs")}: ${group.text}`;

function calm(health, acknowledged) {
  const known = acknowledged ? ` ${count(acknowledged, "wrong.acknowledged")}` : "";
  return el("p", { class: "calm" }, el("b", { text: t("wrong.nothing") }), el("span", { text: known }), el("span", { class: "dim heard", text: heardOf(health) }));
}

function list(health, groups, acknowledged, brief, away) {
  const items = [...health.reasons.map((reason, i, all) => reasonItem(reason, all[i + 1])), ...(brief ? counted(groups) : groups.slice(0, SHOWN).map(groupItem)), ...(away ? [awayItem(away, brief)] : [])];
  const more = brief ? 0 : groups.length - SHOWN, rest = [];
  if (more > 0) rest.push(count(more, "wrong.kinds"));
  if (acknowledged) rest.push(count(acknowledged, "wrong.acknowledged"));
  return el("div", {}, el("h2", { class: brief ? "hide" : null, text: t("wrong.title") }), el("ul", {}, items),
    rest.length ? el("p", {}, el("a", { href: "#/alerts", text: rest.join(" · ") })) : null);
}

function counted(groups) {
  const sum = (severity) => groups.filter((group) => group.severity === severity).reduce((n, group) => n + group.alerts.length, 0);
  const told = Object.keys(RANK).map((severity) => [severity, sum(severity)]).filter(([, n]) => n);
  return told.length ? [item("alerts", told[0][0], el("p", {}, el("a", { href: "#/alerts", text: told.map(([severity, n]) => count(n, `wrong.${severity}`)).join(", ") })))] : [];
}

const item = (code, level, text) =>
  el("li", { "data-code": code, class: level }, el("span", { class: "mark", "aria-hidden": "true", text: level === "info" ? "●" : "▲" }), text);

// What mends the next one, too, is said once, below that.
function reasonItem(reason, next) {
  const fix = reason.fix && reason.fix !== next?.fix ? el("p", { class: "fix" }, el("b", { text: `${t("wrong.fix")} ` }), reason.fix) : null;
  return item(reason.code, "", el("div", {}, el("p", { text: reason.message }), fix));
}

const awayText = ({ fleet }) => ["silent", "offline"].filter((key) => fleet[key]).map((key) => count(fleet[key], `wrong.${key}`)).join(", ");
const awayNames = ({ packs }) => packs.map((row) => [row.name, ageOf(row)]);

function awayItem(away, brief) {
  const names = brief ? [] : awayNames(away), more = away.total - names.length;
  const text = el("p", {}, awayText(away), names.length ? ": " : "");
  names.forEach(([name, age], i) => text.append(i ? ", " : "", el("a", { href: packHash(name), text: name }), age ? ` ${t("wrong.since", { age })}` : ""));
  if (!brief && more > 0) text.append(" ", el("a", { href: "#/?sort=oldest", text: count(more, "wrong.more_packs") }));
  return item("away", away.fleet.silent ? "warning" : "info", text);
}

function groupItem(group) {
  const [first, ...others] = group.alerts;
  const value = first.value && `, ${first.value}`;
  const where = el("a", { href: packHash(first.name), text: first.name });
  const text = el("p", {}, el("b", { text: t(`severity.${group.severity}`) }), ` ${group.text}: `, where, value);
  if (others.length) text.append(" ", el("a", { href: "#/alerts", text: count(others.length, "wrong.more_packs") }));
  return item(group.code, group.severity, text);
}
