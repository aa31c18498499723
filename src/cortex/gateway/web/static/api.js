// Calls to the gateway. The header beside the session's cookie is what no page of another site can send.
const OURS = { "x-cortex-ui": "1" };

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function call(method, path, body, signal) {
  const headers = body === undefined ? OURS : { ...OURS, "content-type": "application/json" };
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const answer = await fetch(path, { method, headers, body: sent, signal, credentials: "same-origin" });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const told = await answer.json().catch(() => ({}));
  const error = told.error ?? {};
  return new Refused(answer.status, error.code ?? "", error.message ?? `the gateway answered ${answer.status}`);
}

export async function ask(method, path, body) {
  return (await call(method, path, body)).json();
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);

// Events of a stream as they come: `{data}` with its text, `{comment}` for what only keeps it alive.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield { data: line.slice(5).trim() };
        else if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// A model's id in a path: its slashes stay.
export const inPath = (name) => name.split("/").map(encodeURIComponent).join("/");
