import { assertEquals, assertMatch } from "@std/assert";
import type { ApiKey } from "../../src/server/api_keys.ts";
import { tenantOf } from "../../src/server/tenant.ts";

function key(byte: number): ApiKey {
  return { name: "same", hash: new Uint8Array(32).fill(byte), priority: 0 };
}

Deno.test("every key, user and salt is a tenant of its own, whatever their texts hold", () => {
  const parts = [
    {},
    { userId: "" },
    { userId: "a" },
    { user: "a" },
    { cacheSalt: "a" },
    { userId: "a", cacheSalt: "b" },
    { userId: "ab" },
    { userId: 'a","b' },
    { userId: "a", user: "b" },
    { userId: "b", user: "a" },
    { userId: "null" },
  ];
  const tenants = [undefined, key(1), key(2)].flatMap((key) =>
    parts.map((part) => tenantOf({ key, ...part }))
  );
  assertEquals(new Set(tenants).size, 3 * parts.length);
  for (const tenant of tenants) assertMatch(tenant, /^[0-9a-f]{64}$/);
  assertEquals(tenantOf({ key: key(1), userId: "a" }), tenants[parts.length + 2]);
});

Deno.test("a tenant is an HMAC-SHA256 under the key's hash", async () => {
  const secret = await crypto.subtle.importKey(
    "raw",
    new Uint8Array(32).fill(7),
    { name: "HMAC", hash: "SHA-256" },
    false,
    ["sign"],
  );
  const message = new TextEncoder().encode('["me",null,"salt"]');
  const mac = new Uint8Array(await crypto.subtle.sign("HMAC", secret, message));
  const hex = [...mac].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  assertEquals(tenantOf({ key: key(7), userId: "me", cacheSalt: "salt" }), hex);
});
