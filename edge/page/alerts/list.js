// Alerts as a list: what, where, since when, and a note of who has seen it.

import { emit, logIn, Refused, send, Unauthorized } from "../api.js";
import { el } from "../dom.js";
import { measured, packHash, valueOf, when } from "../format.js";
import { t } from "../texts.js";

const RANK = { critical: 0, warning: 1, info: 2 };
const NOTE_LENGTH = 500;
const NOBODY = new Set(["token", "local"]); // said by somebody without a name

export class AlertList {
  // `named`: whether each says its pack.
  constructor(id, { named }) {
    this.named = named;
    this.open = null; // the alert for which something is being written: the list stays as it is meanwhile
    this.element = el("ul", { id, class: "alerts" });
  }

  // Active ones first, the worst and those nobody has seen on top; then what is over.
  show(alerts) {
    if (this.open !== null) return;
    const key = JSON.stringify(alerts);
    if (key === this.key) return;
    this.key = key;
    const rank = (alert) => (alert.state === "cleared" ? 100 : alert.acknowledged ? 10 : 0) + (alert.state === "cleared" ? 0 : RANK[alert.severity]);
    this.element.replaceChildren(...[...alerts].sort((a, b) => rank(a) - rank(b) || b.ts_ms - a.ts_ms).map((alert) => this.item(alert)));
  }

  item(alert) {
    const cleared = alert.state === "cleared", name = `${alert.fleet}/${alert.pack}`;
    const level = cleared ? "over" : { critical: "poor", warning: "fair", info: "info" }[alert.severity];
    const value = valueOf(alert), limit = measured(alert.limit, alert.unit === "level" ? "" : alert.unit);
    const facts = [value && limit ? t("alerts.value", { value, limit }) : value, t(cleared ? "alerts.from_to" : "alerts.since", { from: when(alert.since_ms), to: when(alert.ts_ms) })];
    const item = el("li", { class: `${level}${alert.acknowledged ? " seen" : ""}`, "data-alert": alert.id, "data-testid": "alert" },
      el("span", { class: `pill ${level}`, text: cleared ? t("alerts.cleared") : t(`severity.${alert.severity}`) }),
      el("div", { class: "what" },
        el("p", {}, this.named ? el("a", { href: packHash(name), text: name }) : null, this.named ? " " : null, el("b", { text: alert.text || alert.code })),
        el("p", { class: "dim", text: facts.filter(Boolean).join(" · ") }), seen(alert)));
    if (!cleared) item.append(this.action(item, alert));
    return item;
  }

  action(item, alert) {
    const press = () => (alert.acknowledged ? this.tell(item, alert, "DELETE") : this.form(item, alert));
    return el("button", { type: "button", class: "acknowledge", text: t(alert.acknowledged ? "alerts.take_back" : "alerts.acknowledge"), on: { click: press } });
  }

  form(item, alert) {
    const note = el("input", { type: "text", maxlength: NOTE_LENGTH, "aria-label": t("alerts.note"), placeholder: t("alerts.note") });
    const submit = () => this.tell(item, alert, "POST", { note: note.value.trim() });
    this.write(item, alert, { class: "note", submit }, note, el("button", { class: "main", text: t("alerts.acknowledge") }));
  }

  // A form in the item; `close` gives the list free again.
  write(item, alert, { class: name, submit }, ...parts) {
    this.open = alert.id;
    const heard = (event) => { event.preventDefault(); submit(); };
    item.querySelector(".acknowledge").hidden = true;
    item.append(el("form", { class: name, on: { submit: heard, keydown: (event) => event.key === "Escape" && this.close(item) } }, parts,
      el("button", { type: "button", text: t("alerts.cancel"), on: { click: () => this.close(item) } })));
    parts.find((part) => part.matches("input")).focus();
  }

  close(item) {
    this.open = null;
    for (const element of item.querySelectorAll("form, .failed")) element.remove();
    item.querySelector(".acknowledge").hidden = false;
    item.querySelector(".acknowledge").focus();
  }

  async tell(item, alert, method, body) {
    item.querySelector(".failed")?.remove();
    try {
      await send(method, `api/alerts/${encodeURIComponent(alert.id)}/acknowledge`, body);
      this.open = null;
      this.key = "";
      emit("alerts");
    } catch (error) {
      if (error instanceof Unauthorized) this.login(item, alert, () => this.tell(item, alert, method, body));
      else this.failed(item, error);
    }
  }

  // Where the gateway has users, one of them must say so.
  login(item, alert, again) {
    const field = (type, label, complete) => el("input", { type, required: true, autocomplete: complete, "aria-label": t(label), placeholder: t(label) });
    const name = field("text", "login.user", "username"), password = field("password", "login.password", "current-password");
    const submit = async () => {
      item.querySelector(".failed")?.remove();
      try {
        await logIn(name.value, password.value);
        item.querySelector("form.who").remove();
        await again();
      } catch (error) {
        this.failed(item, error);
      }
    };
    item.querySelector("form.who")?.remove();
    this.write(item, alert, { class: "who", submit }, el("p", { text: t("login.who") }), name, password, el("button", { class: "main", text: t("login.go") }));
  }

  failed(item, error) {
    if (!item.querySelector("form")) this.close(item); // nothing is being written any more
    const text = error instanceof Refused && [404, 405].includes(error.status) ? t("alerts.cannot") : error.message;
    item.append(el("p", { class: "failed poor", role: "alert", text }));
  }
}

function seen(alert) {
  if (!alert.acknowledged) return null;
  const { by, at_ms: at, note } = alert.acknowledged;
  return el("p", { class: "dim" }, t(NOBODY.has(by) ? "alerts.seen" : "alerts.seen_by", { by, at: when(at) }), note ? ` “${note}”` : "");
}
