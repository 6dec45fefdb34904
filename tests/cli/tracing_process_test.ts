/** What a collector of OpenTelemetry hears of a process that serves, through Deno's own exporter. */

import { assert, assertEquals } from "@std/assert";
import { linesOf } from "../../src/cli/lines.ts";
import { ROOT } from "../support/fixtures.ts";

const HANG_MS = 30_000;
const TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT = "00f067aa0ba902b7";

interface OtlpValue {
  readonly stringValue?: string;
  readonly intValue?: string | number;
  readonly doubleValue?: number;
}

interface OtlpSpan {
  readonly traceId: string;
  readonly parentSpanId: string;
  readonly name: string;
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: { key: string; value: OtlpValue }[];
  readonly events: { name: string; timeUnixNano: string }[];
}

/** Takes the server's own spans as OTLP in JSON; Deno's own lie beside them. */
function collector() {
  const spans: OtlpSpan[] = [];
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    async (asked) => {
      const { resourceSpans = [] } = await asked.json();
      for (const { scopeSpans } of resourceSpans) {
        for (const { scope, spans: some } of scopeSpans) {
          if (scope.name === "sluice") spans.push(...some);
        }
      }
      return Response.json({});
    },
  );
  return { spans, server, url: `http://127.0.0.1:${server.addr.port}` };
}

const mayRun = Deno.permissions.querySync({ name: "run" }).state === "granted";
if (!mayRun) console.log("skipped: starting a process needs --allow-run");

Deno.test({
  name: "Deno's exporter sends one span for a stream, from its request to its last byte",
  ignore: !mayRun,
  async fn() {
    const { spans, server, url: endpoint } = collector();
    const { tasks } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
    const args = tasks.start.split(" ").slice(1).map((word: string) => word.replaceAll("'", ""));
    const child = new Deno.Command(Deno.execPath(), {
      args: [...args, "--port", "0", "--log", "off"],
      cwd: ROOT,
      env: {
        SLUICE_MODEL: "",
        SLUICE_BACKEND: "",
        OTEL_DENO: "true",
        OTEL_DENO_CONSOLE: "ignore",
        OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
        OTEL_EXPORTER_OTLP_ENDPOINT: endpoint,
        OTEL_BSP_SCHEDULE_DELAY: "50",
      },
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const lines = linesOf(child.stdout);
    try {
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec((await lines.next()).value ?? "")?.[0];
      const started = performance.now();
      const response = await fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        headers: { traceparent: `00-${TRACE}-${PARENT}-01` },
        body: JSON.stringify({
          stream: true,
          stream_options: { include_usage: true },
          max_tokens: 40,
          messages: [{ role: "user", content: "What is 47 + 38?" }],
        }),
      });
      const text = await response.text();
      const tookMs = performance.now() - started;
      const events = text.split("\n\n").filter((event) => event.startsWith("data: {"));
      const { usage } = JSON.parse(events.at(-1)!.slice("data: ".length));
      const deadline = performance.now() + HANG_MS;
      const ours = () => spans.filter(({ traceId }) => traceId === TRACE);
      while (ours().length === 0) {
        assert(performance.now() < deadline, "no span came");
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      child.kill("SIGTERM");
      assertEquals((await child.status).code, 0);
      assertEquals(ours().length, 1);
      const [span] = ours();
      // 2 is a server's span.
      assertEquals([span.parentSpanId, span.name, span.kind], [
        PARENT,
        "POST /v1/chat/completions",
        2,
      ]);
      const spanMs = Number(BigInt(span.endTimeUnixNano) - BigInt(span.startTimeUnixNano)) / 1e6;
      const firstMs = Number(
        BigInt(span.events.find(({ name }) => name === "first_token")!.timeUnixNano) -
          BigInt(span.startTimeUnixNano),
      ) / 1e6;
      assert(spanMs <= tookMs + 5, `the span took ${spanMs} ms, the request ${tookMs} ms`);
      // Tokens that follow the first one take time, and the span covers it.
      assert(firstMs < spanMs - 5, `first token after ${firstMs} of ${spanMs} ms`);
      const value = (key: string) => {
        const { intValue, doubleValue, stringValue } = span.attributes.find((attribute) =>
          attribute.key === key
        )!.value;
        return stringValue ?? Number(intValue ?? doubleValue);
      };
      assertEquals(value("gen_ai.operation.name"), "chat");
      assertEquals(value("gen_ai.usage.input_tokens"), usage.prompt_tokens);
      assertEquals(value("gen_ai.usage.output_tokens"), usage.completion_tokens);
      assert(!JSON.stringify(spans).includes("47 + 38"));
    } finally {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended by itself.
      }
      await child.status;
      await lines.return(undefined);
      await server.shutdown();
    }
  },
});
