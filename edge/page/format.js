// Numbers, times and grades as people read them.

import { t } from "./texts.js";

const known = (value) => value !== null && value !== undefined;

export function number(value, digits = 0) {
  if (!known(value)) return "–";
  const shown = Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value; // never "-0"
  return shown.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// What an alert measured: a digit behind the point only where there is something to say.
export function measured(value, unit) {
  if (!known(value)) return "";
  const text = number(value, Math.abs(value) < 100 && !Number.isInteger(value) ? 1 : 0);
  return unit === "level" ? `${unit} ${text}` : `${text} ${unitOf(unit)}`.trim();
}

// What an active alert is about, as it is now and as it was when it was raised: only the first is what somebody walks up to.
export function valueOf({ active, value, now, worst, unit, silent }) {
  const then = measured(value, unit), present = measured(now, unit), most = measured(worst, unit);
  if (!active || !present) return active && then ? t("alerts.then", { then }) : then;
  const parts = [t(silent ? "alerts.heard" : "alerts.now", { now: present })];
  if (most && most !== present && most !== then) parts.push(t("alerts.worst", { worst: most }));
  if (then) parts.push(t("alerts.then", { then }));
  return parts.join(", ");
}

export const withUnit = (value, digits, unit) => (known(value) ? `${number(value, digits)}${unit ? ` ${unit}` : ""}` : "–");

const SYMBOLS = { c: "°C", pct: "%", mv: "mV", ohm_per_v: "Ω/V", EFC: "cycles", efc: "cycles" }; // how messages spell units
export const unitOf = (unit) => SYMBOLS[unit] ?? unit ?? "";

export function duration(s) {
  if (!known(s)) return "–";
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

export function bytes(n) {
  if (!known(n)) return "–";
  const step = n < 1e3 ? 0 : n < 1e6 ? 1 : n < 1e9 ? 2 : 3;
  return `${number(n / 1000 ** step, step && n / 1000 ** step < 10 ? 1 : 0)} ${["B", "KB", "MB", "GB"][step]}`;
}

export function rate(perSecond) {
  if (!known(perSecond)) return "–";
  return `${number(perSecond, perSecond < 10 && perSecond > 0 ? 1 : 0)}/s`;
}

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
export const clock = (ms) => new Date(ms).toLocaleTimeString("en", CLOCK);

// Names of fields as the gateway's texts have them, in words.
export const inWords = (text) => text.replace(/\b[a-z]+(?:_[a-z0-9]+)+\b|\befc\b/g, (name) => {
  const word = t(`field.${name}`);
  return word === `field.${name}` ? name.replaceAll("_", " ") : word;
});

const pad = (n) => String(n).padStart(2, "0");
export function when(ms) {
  if (!known(ms)) return "–";
  const d = new Date(ms);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${pad(d.getHours())}:${pad(d.getMinutes())}`;
}

// To the second; the day where it is another one.
export const moment = (ms) => (new Date(ms).toDateString() === new Date().toDateString() ? clock(ms) : `${when(ms)}${clock(ms).slice(5)}`);

// Bands come from the gateway with its answers; the same limits grade its own order of worry.
export const bands = {};

export function grade(quantity, value) {
  const band = bands[quantity];
  if (!band || !known(value)) return "";
  const sign = band.poor > band.fair ? 1 : -1;
  return sign * value > sign * band.poor ? "poor" : sign * value > sign * band.fair ? "fair" : "good";
}

export const isAway = (row) => row.online === false || row.silent;

// How long ago the pack was heard of; `asked` is when its row came.
export function ageOf(row) {
  return known(row.age_s) ? duration(row.age_s + (Date.now() - (row.asked ?? Date.now())) / 1000) : "";
}

export function stateOf(row) {
  if (isAway(row)) return `${t(row.online === false ? "state.offline" : "state.silent")} ${ageOf(row)}`.trim();
  return (row.charging_state ?? "").replaceAll("_", " ");
}

export const packHash = (name) => `#/pack/${name.split("/").map(encodeURIComponent).join("/")}`;
export const packPath = (name, view) => `api/packs/${name.split("/").map(encodeURIComponent).join("/")}/${view}`;

// Lines of a list with one of each: "3 packs", "1 pack".
export const count = (n, one) => t(n === 1 ? `${one}.one` : `${one}.many`, { n: number(n) });
