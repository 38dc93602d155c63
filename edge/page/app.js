// The page starts here: which view, what is wrong above each of them, and whether the gateway still answers.

import { alertsView } from "./alerts/view.js";
import { activeAlerts } from "./alerts/read.js";
import { emit, follow, get, isLive, on, Refused, token, Unauthorized } from "./api.js";
import { byId, el, say } from "./dom.js";
import { bands, clock, number } from "./format.js";
import { fleetView } from "./fleet/view.js";
import { gatewayView } from "./gateway/view.js";
import { packView } from "./pack/view.js";
import { t } from "./texts.js";
import { setUpTheme } from "./theme.js";
import { Wrong } from "./wrong.js";

const POLL_MS = 3000, ALERTS_ASKED = 200, AWAY_NAMED = 3;
const shared = { health: null, links };
const wrong = new Wrong(byId("wrong"), byId("live"));
let view = null, locked = false, lastHeard = null, failed = null;

// -- views --------------------------------------------------------------------------------------------------------

// An address that somebody wrote by hand may have a "%" that means nothing.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

// "#/pack/fleet/pack" → [packView, "fleet/pack"]; anything unknown is the fleet.
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [head, ...rest] = path.split("/").map(decoded);
  if (head === "pack" && rest.length) return { make: packView, given: rest.join("/"), tab: "fleet" };
  if (head === "gateway") return { make: gatewayView, tab: "gateway" };
  if (head === "alerts") return { make: alertsView, tab: "alerts" };
  return { make: fleetView, given: new URLSearchParams(query), tab: "fleet" };
}

function show() {
  if (locked) return;
  const { make, given, tab } = route(), root = byId("view"), first = view === null;
  view?.stop();
  root.replaceChildren();
  root.dataset.view = make.name.replace("View", "");
  view = make(root, given, shared);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  title();
  if (!first) {
    scrollTo({ top: 0 });
    byId("main").focus({ preventScroll: true });
  }
  refresh();
}

function title() {
  document.title = [view?.title, shared.health?.gateway, "Voltflow"].filter(Boolean).join(" – ");
}

// A plain link cannot send the token.
function links() {
  const files = [["vendor/NOTICE", "links.licences"]], answers = [["api/openapi.json", "links.openapi"], ["metrics", "links.metrics"], ["editor/", "links.editor"]];
  return (token.get() ? files : [...answers, ...files]).map(([href, text]) => el("a", { href, text: t(text) }));
}

// -- what is asked for again and again ----------------------------------------------------------------------------

async function showHealth() {
  const [health, alerts, away] = await Promise.all([get("api/health"), activeAlerts(ALERTS_ASKED), get(`api/packs?only=away&sort=oldest&limit=${AWAY_NAMED}`)]);
  shared.health = health;
  if (failed) health.reasons.push({ code: "request", message: t("wrong.request", { error: failed }) });
  lastHeard = Date.now();
  say(byId("gateway"), health.gateway);
  const level = { ok: "good", degraded: "fair", unhealthy: "poor" }[health.status];
  if (isLive()) pill(t(`health.${health.status}`), level);
  wrong.show(health, alerts.alerts, { brief: byId("view").dataset.view !== "fleet", away: away.total ? away : null });
  badge(alerts);
  title();
}

function badge({ alerts, active }) {
  const open = alerts.filter((alert) => !alert.acknowledged), has = (severity) => open.some((alert) => alert.severity === severity);
  byId("alerts-badge").hidden = open.length === 0;
  byId("alerts-badge").className = `badge ${has("critical") ? "poor" : has("warning") ? "fair" : ""}`;
  say(byId("alerts-badge"), number(open.length === ALERTS_ASKED ? active : open.length));
}

async function refresh() {
  const now = view;
  const [health, shown] = await Promise.allSettled([showHealth(), view.refresh()]);
  if (view !== now || locked) return;
  failed = shown.reason instanceof Refused && shown.reason.status !== 404 ? shown.reason.message : null;
  for (const { reason } of [health, shown]) if (reason) console.debug(reason); // what one request could not tell comes with the next
}

async function poll() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (locked) return;
    if (!document.hidden) await refresh();
  }
}

// -- connection and login -----------------------------------------------------------------------------------------

function pill(text, level) {
  say(byId("health"), text);
  byId("health").className = `pill ${level}`;
}

function connection(state) {
  const lost = state === "lost";
  document.body.dataset.connection = state;
  byId("lost").hidden = !lost;
  if (lost) {
    say(byId("lost"), lastHeard ? t("lost.since", { at: clock(lastHeard) }) : t("lost.never"));
    pill(t("health.lost"), "poor");
  } else if (view) refresh();
}

function lock() {
  if (locked) return;
  locked = true;
  view?.stop();
  byId("main").hidden = true;
  byId("wrong").hidden = true;
  byId("login").hidden = false;
  pill(t("health.locked"), "");
  if (token.get()) say(byId("login-error"), t("login.wrong"));
  token.forget();
  byId("token").focus();
}

function setUp() {
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  byId("login").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(byId("token").value.trim());
    location.reload();
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address says which view
    byId("main").focus();
  });
  setUpTheme(byId("theme"));
  on("unauthorized", lock);
  on("connection", connection);
  on("alerts", () => showHealth().catch(() => {}));
  addEventListener("hashchange", show);
  document.addEventListener("visibilitychange", () => document.hidden || locked || refresh());
}

async function main() {
  setUp();
  follow("?packs=");
  try {
    Object.assign(bands, (await get("api/packs?limit=1")).bands);
  } catch (error) {
    if (error instanceof Unauthorized) return;
    emit("connection", "lost");
  }
  show();
  poll();
}

main();
