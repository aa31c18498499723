// What is known of the fleet, from the one stream that the page listens to, and who the page is signed in as.
import { computed, signal } from "./vendor/signals.js";
import { call, events, get, Refused } from "./api.js";

const KEPT_ENTRIES = 300;
const RETRY_MS = 1000;

export const session = signal(null);
export const isLive = signal(false);
export const isKnown = signal(false);
export const models = signal([]);
export const waiting = signal({});
export const plans = signal({});
export const refusedEdits = signal({});
export const entries = signal([]);
export const requestsEnded = signal(0);
const byName = signal(new Map());

export const nodes = computed(() => [...byName.value.values()]);
export const replicas = computed(() =>
  nodes.value.flatMap((node) => node.replicas.map((replica) => ({ ...replica, node: node.name, gone: !node.healthy }))),
);
export const modelNames = computed(() =>
  [...new Set([...models.value.map((each) => each.id), ...replicas.value.map((each) => each.model)])].sort(),
);

export const isAdmin = computed(() => session.value?.caller?.scope === "admin");

export async function learnSession() {
  session.value = await get("/ui/session");
}

function take(message) {
  if (message.kind === "fleet") {
    byName.value = new Map(message.nodes.map((node) => [node.name, seen(node)]));
    entries.value = message.entries.reverse();
    takeRest(message);
    isKnown.value = true;
  } else if (message.kind === "changed") {
    const known = new Map(byName.value);
    for (const node of message.nodes) known.set(node.name, seen(node));
    for (const name of message.removed) known.delete(name);
    byName.value = known;
    takeRest(message);
  } else if (message.kind === "request") {
    requestsEnded.value += 1;
  } else {
    entries.value = [message, ...entries.value].slice(0, KEPT_ENTRIES);
  }
}

function takeRest(message) {
  if (message.models) models.value = message.models;
  if (message.waiting) waiting.value = message.waiting;
  if (message.plans) plans.value = message.plans;
  if (message.refused_edits) refusedEdits.value = message.refused_edits;
}

function seen(node) {
  const ago = node.seen_seconds_ago;
  return { ...node, seenAt: ago === null ? null : Date.now() / 1000 - ago };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Listen for as long as the page is open; a stream that breaks is taken up again, and begins with the whole fleet.
export async function listen() {
  for (;;) {
    try {
      const answer = await call("GET", "/fleet/live");
      isLive.value = true;
      for await (const { data } of events(answer)) if (data !== undefined) take(JSON.parse(data));
    } catch (error) {
      if (error instanceof Refused && error.status < 500) {
        isLive.value = false;
        await learnSession();
        return;
      }
    }
    isLive.value = false;
    await pause(RETRY_MS);
  }
}
