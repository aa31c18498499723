// The frame of the page: who is signed in, which part is shown, and whether what it shows is live.
import { render } from "./vendor/preact.js";
import { useEffect, useRef } from "./vendor/preact-hooks.js";
import { computed, signal } from "./vendor/signals.js";
import { ask } from "./api.js";
import { Patterns } from "./devices.js";
import { Fleet } from "./fleet.js";
import { html } from "./html.js";
import { Keys } from "./keys.js";
import { Models } from "./models.js";
import { OrderDialog } from "./orders.js";
import { Playground } from "./playground.js";
import { Requests } from "./requests.js";
import { SignIn } from "./sign-in.js";
import { isAdmin, isKnown, isLive, learnSession, listen, session } from "./store.js";

const PARTS = {
  fleet: { title: "Fleet", part: Fleet },
  models: { title: "Models", part: Models },
  requests: { title: "Requests", part: Requests },
  playground: { title: "Playground", part: Playground, forAll: true },
  keys: { title: "Keys", part: Keys },
};

const hash = signal(location.hash);
addEventListener("hashchange", () => (hash.value = location.hash));

const place = computed(() => {
  const [name, ...rest] = hash.value.replace(/^#\//, "").split("/");
  return { name: shown().includes(name) ? name : shown()[0], rest: rest.map(decodeURIComponent).join("/") };
});

function shown() {
  return Object.keys(PARTS).filter((name) => isAdmin.value || PARTS[name].forAll);
}

function Page() {
  if (session.value === null) return null;
  if (session.value.caller === null) return html`<${SignIn} />`;
  const { name, rest } = place.value;
  const { title, part } = PARTS[name];
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="top">
      <a class="wordmark" href="#/fleet">cortex</a>
      <nav aria-label="Parts">
        ${shown().map(
          (each) =>
            html`<a href="#/${each}" aria-current=${each === name ? "page" : undefined}>${PARTS[each].title}</a>`,
        )}
      </nav>
      <${Standing} />
    </header>
    <${Main} key=${name} title=${title}>
      ${isKnown.value || !isAdmin.value ? html`<${part} rest=${rest} />` : html`<p class="fine">Looking at the fleet…</p>`}
    <//>
    <${OrderDialog} />
    <${Patterns} />
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Main({ title, children }) {
  const main = useRef(null);
  useEffect(() => {
    document.title = `${title} · Cortex`;
    main.current.scrollIntoView?.({ block: "nearest" });
  }, [title]);
  return html`<main id="main" tabindex="-1" ref=${main}>${children}</main>`;
}

function Standing() {
  const { caller, wants_key: wantsKey } = session.value;
  return html`<div class="standing">
    ${isAdmin.value &&
    html`<span class="live ${isLive.value ? "good" : "bad"}" role="status">${isLive.value ? "live" : "not connected"}</span>`}
    ${wantsKey && html`<span class="who">${caller.name}</span><button class="quiet" onClick=${signOut}>Sign out</button>`}
  </div>`;
}

async function signOut() {
  await ask("DELETE", "/ui/session");
  location.reload();
}

async function begin() {
  await learnSession();
  render(html`<${Page} />`, document.getElementById("app"));
}

let listens = false;
session.subscribe(() => {
  if (isAdmin.value && !listens) {
    listens = true;
    listen().finally(() => (listens = false));
  }
});

begin();
