// Talking to the gateway: requests with the token, the stream of changes, and whether the gateway answers at all.

const STALE_MS = 40000; // the gateway says something every 15 s
const RETRY_MS = 2000;
const PATIENCE_MS = 10000;

export class Unauthorized extends Error {}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const heard = new Map();
export function on(event, listener) {
  if (!heard.has(event)) heard.set(event, new Set());
  heard.get(event).add(listener);
  return () => heard.get(event).delete(listener);
}
export function emit(event, data) {
  for (const listener of heard.get(event) ?? []) listener(data);
}

const kept = (name) => ({
  get: () => sessionStorage.getItem(name),
  set: (text) => sessionStorage.setItem(name, text),
  forget: () => sessionStorage.removeItem(name),
});
export const token = kept("token"); // of the gateway
const user = kept("user-token"); // of who logged in to change something, where the gateway has users and no token

async function ask(path, options = {}) {
  const headers = { ...options.headers }, bearer = token.get() ?? (options.method ? user.get() : null);
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  const response = await fetch(path, { cache: "no-store", ...options, headers }).catch((error) => {
    if (error.name !== "AbortError") become("lost"); // nothing, or nothing in time
    throw error;
  });
  if (streaming) become("live");
  if (response.status === 401) {
    if (!options.method || token.get()) emit("unauthorized");
    throw new Unauthorized();
  }
  return response;
}

// The answer of the gateway; throws Refused with its words where it has none.
async function answerOf(response) {
  const answer = response.status === 204 ? {} : await response.json();
  if (answer.error) throw new Refused(response.status, answer.error.message);
  return answer;
}

export async function get(path) {
  return answerOf(await ask(path, { signal: AbortSignal.timeout(PATIENCE_MS) }));
}

// Null where this gateway does not have such an answer (an older version, a pack that is gone).
export async function getOrNull(path) {
  try {
    return await get(path);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

export async function send(method, path, body) {
  const options = { method, signal: AbortSignal.timeout(PATIENCE_MS) };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  return answerOf(await ask(path, options));
}

// As a user of this gateway's editor, for what changes something; throws Refused.
export async function logIn(username, password) {
  const body = new URLSearchParams({ client_id: "node-red-editor", grant_type: "password", scope: "", username, password });
  const response = await fetch("editor/auth/token", { method: "POST", body, signal: AbortSignal.timeout(PATIENCE_MS) });
  const answer = await response.json();
  if (!response.ok) throw new Refused(response.status, answer.error_description ?? answer.message ?? String(answer.error));
  user.set(answer.access_token);
}

let connection = "connecting", streaming = false;
export const isLive = () => connection === "live";

function become(state) {
  if (state === connection) return;
  connection = state;
  emit("connection", state);
}

let wanted = "", running = null;

// Which packs' changes are told: the query of the stream. A new one takes the place of the one before.
export function follow(query) {
  if (query === wanted && running) return;
  wanted = query;
  running?.abort();
  running = new AbortController();
  listen(query, running);
}

async function listen(query, stopped) {
  while (!stopped.signal.aborted) {
    const abort = new AbortController(), stop = () => abort.abort();
    let refused = false; // a gateway that does not know the pack, or has too many listeners, is there all the same
    stopped.signal.addEventListener("abort", stop, { once: true });
    try {
      const response = await ask(`api/stream${query}`, { signal: abort.signal });
      if (!response.ok) throw new Refused(response.status, response.statusText);
      streaming = true;
      become("live");
      await read(response.body.getReader(), abort);
    } catch (error) {
      if (error instanceof Unauthorized) return;
      refused = error instanceof Refused;
    } finally {
      stopped.signal.removeEventListener("abort", stop);
    }
    if (stopped.signal.aborted) return;
    streaming = false;
    become(refused ? "live" : "lost");
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

// Server-sent events by fetch, because EventSource cannot send the token as a header.
async function read(reader, abort) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const silence = setTimeout(() => abort.abort(), STALE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) tell(event);
  }
}

function tell(event) {
  const lines = event.split("\n"), data = lines.find((line) => line.startsWith("data: "));
  const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
  if (data && name) emit(name, JSON.parse(data.slice(6)));
}
