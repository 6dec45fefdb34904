/** The thread of `ServerThread`. */

import { RangeServer, type RangeServerOptions } from "../../support/range_server.ts";

export type Fault = "none" | "missing" | "cutShort" | "broken" | "longer" | "shifted" | "changed";

export type ServerCommand =
  | { type: "start"; files: Record<string, string>; latencyMs?: number }
  | { type: "fault"; kind: Fault }
  | { type: "requests" }
  | { type: "stop" }
  | { type: "restart" };

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ServerCommand>) => void) | null;
  postMessage(answer: string): void;
};

let server: RangeServer | null = null;
let started: RangeServerOptions | null = null;

scope.onmessage = async ({ data }) => {
  switch (data.type) {
    case "start":
      server = new RangeServer(data);
      started = { ...data, port: Number(new URL(server.url).port) };
      break;
    case "fault":
      server!.etag = data.kind === "changed" ? `"2"` : `"1"`;
      server!.fault = faultOf(server!, data.kind);
      break;
    case "stop":
      await server?.close();
      server = null;
      break;
    case "restart":
      server = new RangeServer(started!);
      break;
  }
  scope.postMessage(data.type === "requests" ? `${server!.requests.length}` : server?.url ?? "");
};

function faultOf(server: RangeServer, kind: Fault): RangeServer["fault"] {
  switch (kind) {
    case "missing":
      return () => new Response("no such file", { status: 404 });
    case "cutShort":
      return (_, proper) => server.cutShort(proper, 100);
    case "broken":
      return (_, proper) => server.broken(proper, 100);
    case "longer":
      return ({ range }, { status, headers }) => {
        const proper = new Headers(headers);
        proper.delete("content-length");
        const bytes = new Uint8Array(range![1] - range![0] + 2);
        return new Response(bytes, { status, headers: proper });
      };
    case "shifted":
      return ({ range }, proper) => {
        const size = proper.headers.get("content-range")!.split("/")[1];
        proper.headers.set("content-range", `bytes ${range![0] + 1}-${range![1] + 1}/${size}`);
        return undefined;
      };
    default:
      return null;
  }
}
