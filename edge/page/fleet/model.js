// The rows of the list: the gateway sorts and searches, the page keeps the parts that are looked at.

import { get } from "../api.js";
import { bands } from "../format.js";

export const PAGE_ROWS = 100;
const PAGES_KEPT = 8;

export class FleetModel {
  constructor(changed) {
    this.changed = changed;
    this.sort = "worry";
    this.search = "";
    this.total = null;
    this.counts = null;
    this.pages = new Map(); // rows by the page's number
    this.asked = new Map(); // promises by the page's number
    this.round = 0;
  }

  // Another order or search: what was there is not it any more.
  set(sort, search) {
    if (sort === this.sort && search === this.search) return;
    Object.assign(this, { sort, search, round: this.round + 1 });
    this.asked.clear();
    this.stale = true;
    return this.load(0);
  }

  row(index) {
    return this.pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS] ?? null;
  }

  // See to it that the rows [from, to) are there.
  want(from, to) {
    for (let page = Math.floor(from / PAGE_ROWS); page * PAGE_ROWS < to; page += 1) {
      if (!this.pages.has(page) && (page === 0 || page * PAGE_ROWS < this.total)) this.load(page).catch(() => {}); // asked again with the next look
    }
  }

  // Read again what is looked at, in its order of now.
  async refresh(from, to) {
    const pages = [];
    for (let page = Math.floor(from / PAGE_ROWS); page * PAGE_ROWS < Math.max(to, 1); page += 1) pages.push(this.load(page));
    await Promise.all(pages);
    if (this.pages.size > PAGES_KEPT) {
      const near = Math.floor(from / PAGE_ROWS);
      for (const page of [...this.pages.keys()]) if (Math.abs(page - near) > PAGES_KEPT / 2) this.pages.delete(page);
    }
  }

  load(page) {
    if (!this.asked.has(page)) this.asked.set(page, this.fetch(page, this.round).finally(() => this.asked.delete(page)));
    return this.asked.get(page);
  }

  async fetch(page, round) {
    const query = new URLSearchParams({ limit: PAGE_ROWS, offset: page * PAGE_ROWS, sort: this.sort });
    if (this.search) query.set("q", this.search);
    const answer = await get(`api/packs?${query}`);
    if (round !== this.round) return;
    if (this.stale) {
      this.pages.clear();
      this.stale = false;
    }
    Object.assign(bands, answer.bands);
    this.total = answer.total;
    this.counts = answer.fleet;
    this.pages.set(page, answer.packs);
    this.changed();
  }

  // Rows of the stream take the place of those of the same name.
  take(rows) {
    const news = new Map(rows.map((row) => [row.name, row]));
    let any = false;
    for (const page of this.pages.values()) {
      page.forEach((row, i) => {
        if (!news.has(row.name)) return;
        page[i] = { ...row, ...news.get(row.name) };
        any = true;
      });
    }
    if (any) this.changed();
  }

  // The names of the rows that are there, of [from, to).
  names(from, to) {
    const names = [];
    for (let i = from; i < to; i += 1) if (this.row(i)) names.push(this.row(i).name);
    return names;
  }
}
