// The request of the playground in other people's words. The key is theirs to fill in.
const indented = (value, by) => JSON.stringify(value, null, 2).replaceAll("\n", `\n${" ".repeat(by)}`);

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python(value) {
  const text = JSON.stringify(value, null, 4);
  // JSON's three words, where they stand for themselves and are no part of a text.
  return text.replace(/("(?:[^"\\]|\\.)*")|\b(true|false|null)\b/g, (all, string, word) => string ?? { true: "True", false: "False", null: "None" }[word]);
}

const lines = (value, render) =>
  Object.entries(value)
    .map(([name, each]) => render(name, each))
    .join("\n");

export const SNIPPETS = {
  curl: (base, body) => `curl -N ${base}/v1/chat/completions \\
  -H "authorization: Bearer $CORTEX_API_KEY" \\
  -H 'content-type: application/json' \\
  -d ${quoted(JSON.stringify(body, null, 2))}
`,
  Python: (base, body) => `import os

from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key=os.environ.get("CORTEX_API_KEY", "none"))
stream = client.chat.completions.create(
${lines(body, (name, value) => `    ${name}=${python(value).replaceAll("\n", "\n    ")},`)}
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
`,
  JavaScript: (base, body) => `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${base}/v1", apiKey: process.env.CORTEX_API_KEY ?? "none" });
const stream = await client.chat.completions.create(${indented(body, 0)});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
`,
};
