// The form that takes a key and exchanges it for a session; the key itself is kept nowhere.
import { useSignal } from "./vendor/signals.js";
import { post } from "./api.js";
import { html } from "./html.js";
import { session } from "./store.js";

export function SignIn() {
  const refusal = useSignal("");
  const submit = async (event) => {
    event.preventDefault();
    const field = event.target.elements.key;
    try {
      session.value = await post("/ui/session", { key: field.value });
    } catch (error) {
      refusal.value = error.message;
      field.select();
    }
  };
  return html`<main class="sign-in" id="main">
    <p class="wordmark">cortex</p>
    <h1>This gateway wants a key.</h1>
    <form onSubmit=${submit}>
      <label>Key <input name="key" type="password" autocomplete="current-password" required autofocus spellcheck="false" /></label>
      <button>Sign in</button>
      <p class="reason" role="alert">${refusal.value}</p>
    </form>
    <p class="fine">A key of scope admin opens all of the dashboard, any other the playground. <code>cortex key create me --scope admin</code> makes one.</p>
  </main>`;
}
