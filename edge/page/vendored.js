// What the page draws with (`voltflow page install`) and style sheets, loaded when they are wanted: again where the network kept them away.

import { el } from "./dom.js";

const PATIENCE_MS = 60000; // three.js over a phone's network

export class NotInstalled extends Error {}
export class Away extends Error {} // it did not come, and may the next time

export const arriving = (promise) => promise.catch((error) => { throw error instanceof NotInstalled ? error : new Away(error.message); });

// A module of vendor/ and the files it needs. Each is asked for as a file before: that tells what is not there (NotInstalled) from what
// did not come, and some browsers take a module that did not come for broken until the page is loaded anew.
export function vendored(path, ...needed) {
  return arriving(Promise.all([path, ...needed].map(there)).then(() => import(`./vendor/${path}`)));
}

async function there(path) {
  const response = await fetch(new URL(`vendor/${path}`, import.meta.url), { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.status === 404) throw new NotInstalled(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  await response.arrayBuffer(); // then it is in the browser's memory
}

const sheets = new Map(); // promises by address

// Once for all who ask; one that did not come is asked for anew.
export function styleSheet(href) {
  if (!sheets.has(href)) sheets.set(href, load(href));
  return sheets.get(href);
}

function load(href) {
  return new Promise((done, failed) => {
    const link = el("link", { rel: "stylesheet", href, on: { load: done, error } });
    function error() {
      link.remove();
      sheets.delete(href);
      failed(new Away(href));
    }
    document.head.append(link);
  });
}
