/**
 * sluice inside another program: one model, asked directly and mounted in an app of one's own.
 *
 *     deno run --allow-read --allow-net=127.0.0.1 examples/embed.ts model.gguf
 */

import { Hono } from "hono";
import { createApp, loadModel, NEUTRAL_SAMPLING, serve } from "../mod.ts";

const path = Deno.args[0];
if (path === undefined) {
  console.error("usage: examples/embed.ts MODEL");
  Deno.exit(2);
}
const model = await loadModel({ model: path });

// Text in, text out.
const prompt = await model.chatPrompt([{ role: "user", content: "Say hello." }]);
let answer = "";
for await (const event of model.answer(prompt, { sampling: NEUTRAL_SAMPLING, maxTokens: 64 })) {
  if (event.type === "delta") answer += event.content;
}
console.log(answer);

// The same model over HTTP, below a path of an app that does other things too.
const app = new Hono();
app.get("/", (context) => context.text("The model is at /llm/v1"));
app.route("/llm", createApp({ model, modelId: "embedded" }));
const server = await serve({ fetch: app.fetch, hostname: "127.0.0.1", port: 8000 });
console.log(`listening on ${server.url}`);
