/** The HTTP API as a Hono app. */

export { type AppOptions, createApp } from "./app.ts";
export { ANY_ADDRESS, LOOPBACK_HOSTS } from "./guard.ts";
