// The fleet: how many are well, search, order, and the list of packs.

import { follow, on } from "../api.js";
import { el, say } from "../dom.js";
import { count, number, packHash } from "../format.js";
import { t } from "../texts.js";
import { Counts } from "./counts.js";
import { PackList } from "./list.js";
import { FleetModel } from "./model.js";

const SORTS = ["worry", "name", "newest", "oldest", "soc", "temperature", "soh", "rul", "failure"];
const SEARCH_MS = 200, SETTLED_MS = 400;
const ORDER_ROUNDS = 2, NEAR = 10, STREAM_PACKS = 200;

export function fleetView(root, query) {
  const model = new FleetModel(() => list.later());
  const list = new PackList(model);
  const counts = new Counts();
  const search = el("input", { id: "search", type: "search", placeholder: t("fleet.search_hint"), autocomplete: "off", spellcheck: "false", "aria-label": t("fleet.search") });
  const sort = el("select", { id: "sort", "aria-label": t("fleet.sort") }, SORTS.map((key) => el("option", { value: key, text: t(`sort.${key}`) })));
  const note = el("p", { id: "packs-count", class: "dim", role: "status" });
  search.value = query.get("q") ?? "";
  sort.value = SORTS.includes(query.get("sort")) ? query.get("sort") : "worry";
  const tools = el("form", { class: "tools", role: "search", on: { submit } }, search, el("label", { class: "sort" }, el("span", { class: "dim", text: t("fleet.sort") }), sort), note);
  const empty = el("p", { class: "empty", hidden: true, id: "packs-empty" });
  root.append(el("h1", { class: "hide", text: t("fleet.title") }), counts.element, tools, empty, list.element);

  function change() {
    const kept = new URLSearchParams();
    if (search.value.trim()) kept.set("q", search.value.trim());
    if (sort.value !== "worry") kept.set("sort", sort.value);
    history.replaceState(null, "", `#/${kept.size ? `?${kept}` : ""}`);
    model.set(sort.value, search.value.trim())?.then(tell).catch((error) => say(note, error.message));
  }

  function submit(event) {
    event.preventDefault();
    const first = model.row(0);
    if (first) location.hash = packHash(first.name);
  }

  function tell() {
    const found = model.total ?? 0;
    say(note, model.search ? t("fleet.found", { n: number(found) }) : count(found, "packs"));
    empty.hidden = found > 0;
    list.element.hidden = found === 0;
    say(empty, model.search ? t("fleet.none_found", { search: model.search }) : t("fleet.none"));
  }

  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(change, SEARCH_MS); });
  sort.addEventListener("change", () => { scrollTo({ top: 0 }); change(); });

  Object.assign(model, { sort: sort.value, search: search.value.trim() });
  const off = on("packs", (changes) => {
    model.take(changes.packs);
    // other counts are another order, and perhaps other packs
    if (list.quiet && model.counts && JSON.stringify(changes.fleet) !== JSON.stringify(model.counts)) order().then(tell, () => {});
    counts.show(changes.fleet);
  });
  list.start();
  let round = 0;

  const order = () => model.refresh(...list.range());

  // The order is asked for now and then; in between the stream tells the values of what is in sight.
  async function refresh() {
    if (model.total === null || (list.quiet && round % ORDER_ROUNDS === 0)) await order();
    round += 1;
    counts.show(model.counts);
    tell();
    hear();
  }

  function hear() {
    const [from, to] = list.range(), names = model.names(Math.max(0, from - NEAR), to + NEAR).slice(0, STREAM_PACKS);
    follow(`?packs=${encodeURIComponent(names.sort().join())}`);
  }

  let settled = 0;
  const scrolled = () => { clearTimeout(settled); settled = setTimeout(hear, SETTLED_MS); };
  addEventListener("scroll", scrolled, { passive: true });

  function stop() {
    off();
    list.stop();
    removeEventListener("scroll", scrolled);
    for (const waiting of [timer, settled]) clearTimeout(waiting);
  }

  return { title: t("fleet.title"), refresh, stop };
}
