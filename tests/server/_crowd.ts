/** Clients in a thread of their own, so that what they do does not count as the server's time. */

export type CrowdTask =
  /** Opens connections, uses each once and keeps them; again, they must still be there. */
  | { readonly kind: "idle"; readonly url: string; readonly count: number }
  /** So many completions at once, streamed and whole. */
  | { readonly kind: "ask"; readonly url: string; readonly count: number }
  /** Asks for `/health` again and again for so long. */
  | { readonly kind: "health"; readonly url: string; readonly ms: number };

export interface CrowdAnswer {
  readonly status: number;
  readonly retryAfter: string | null;
  readonly whole: boolean;
  readonly ms: number;
}

const encoder = new TextEncoder();
const connections: Deno.Conn[] = [];

async function use(connection: Deno.Conn): Promise<CrowdAnswer> {
  const started = performance.now();
  await connection.write(encoder.encode("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  const bytes = new Uint8Array(2_000);
  let text = "";
  // The head and the body's chunks may come one by one.
  while (!text.endsWith("\r\n0\r\n\r\n")) {
    const length = await connection.read(bytes).catch(() => null);
    if (length === null) break;
    text += new TextDecoder().decode(bytes.subarray(0, length));
  }
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0);
  return {
    status,
    retryAfter: null,
    whole: text.endsWith("\r\n"),
    ms: performance.now() - started,
  };
}

async function ask(url: string, i: number): Promise<CrowdAnswer> {
  const started = performance.now();
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({
      messages: [{ role: "user", content: "Tell me something. ".repeat(20) }],
      max_tokens: 40,
      stream: i % 2 === 0,
    }),
  });
  const text = await response.text();
  const whole = i % 2 === 0 ? text.endsWith("data: [DONE]\n\n") : text.includes("Hello there");
  const { status } = response;
  const retryAfter = response.headers.get("retry-after");
  return { status, retryAfter, whole, ms: performance.now() - started };
}

async function perform(task: CrowdTask): Promise<CrowdAnswer[]> {
  const answers: CrowdAnswer[] = [];
  if (task.kind === "ask") {
    return await Promise.all(Array.from({ length: task.count }, (_, i) => ask(task.url, i)));
  }
  if (task.kind === "idle") {
    const { hostname, port } = new URL(task.url);
    while (connections.length < task.count) {
      connections.push(await Deno.connect({ hostname, port: Number(port) }));
    }
    for (const connection of connections) answers.push(await use(connection));
    return answers;
  }
  const { hostname, port } = new URL(task.url);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  const end = performance.now() + task.ms;
  while (performance.now() < end) {
    answers.push(await use(connection));
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  connection.close();
  return answers;
}

self.onmessage = async ({ data }: MessageEvent<CrowdTask>) => {
  self.postMessage(await perform(data));
};
