/** The page of a training run that is under way: what it does, and the figure of its metrics. */

import { type Context, Hono } from "hono";
import { RequestError } from "../src/errors.ts";
import { errorResponse } from "./errors.ts";
import { guard, LOOPBACK_HOSTS } from "./guard.ts";

export interface RunPageOptions {
  /** The page's files, by path from `/`. */
  readonly assets: ReadonlyMap<string, string>;
  /** What the page asks for every second; it goes out as JSON. */
  readonly state: () => unknown;
  /** The figure as SVG, with so many panels beside each other; null before there is anything to draw. */
  readonly figure: (columns: number) => string | null;
}

/** Nothing but the page's own files; no styles or scripts within it. */
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
  "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
};

export function createRunPage({ assets, state, figure }: RunPageOptions): Hono {
  const app = new Hono();
  app.use(guard({ hosts: LOOPBACK_HOSTS, origins: [] }));
  app.use(async (context, next) => {
    context.header("content-security-policy", POLICY);
    context.header("x-content-type-options", "nosniff");
    context.header("referrer-policy", "no-referrer");
    context.header("cache-control", "no-store");
    await next();
  });
  for (const [path, text] of assets) {
    const type = TYPES[path.slice(path.lastIndexOf(".") + 1)];
    const send = (context: Context) => context.body(text, 200, { "content-type": type });
    app.get(path === "/index.html" ? "/" : path, send);
  }
  app.get("/state.json", (context) => context.json(state()));
  app.get("/figure.svg", (context) => {
    const asked = context.req.query("columns") ?? "3";
    if (!/^[1-3]$/.test(asked)) {
      const message = "cannot draw the figure: columns must be 1, 2 or 3";
      throw new RequestError(message, { param: "columns" });
    }
    const drawn = figure(Number(asked));
    return drawn === null
      ? notFound(context)
      : context.body(drawn, 200, { "content-type": "image/svg+xml" });
  });
  app.notFound(notFound);
  app.onError((error, context) => errorResponse(context, error));
  return app;
}

function notFound(context: Context): Response {
  return errorResponse(context, new RequestError("there is nothing here", { status: 404 }));
}
