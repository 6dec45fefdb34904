/** The client of OpenRLHF's protocol against servers that fail in one way each. */

import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { RemoteError } from "../../../src/errors.ts";
import { remoteRewards, type RemoteRewardsOptions } from "../../../src/training/reward/mod.ts";
import { sumSample } from "./_samples.ts";

const SAMPLES = [sumSample("47 + 38 = 85", "85"), sumSample("47 + 38 = 86", "86")];

/** Asks a server that answers this, one after the other; the bodies that it was sent. */
function asked(
  answers: readonly (Response | Error)[],
  options: Partial<RemoteRewardsOptions> = {},
) {
  const bodies: string[] = [];
  const source = remoteRewards({
    ...{ url: "http://127.0.0.1:1/get_reward", retryMs: 1, attempts: 3, ...options },
    fetch: (_url, { body }) => {
      const answer = answers[bodies.push(String(body)) - 1];
      return answer instanceof Error ? Promise.reject(answer) : answer;
    },
  });
  return { bodies, rewards: source(SAMPLES) };
}

const json = (value: unknown, init?: ResponseInit) => new Response(JSON.stringify(value), init);

Deno.test("what may pass is asked for again, and nothing else", async () => {
  const passing = [new TypeError("connection refused"), json({}, { status: 503 })];
  const { bodies, rewards } = asked([...passing, json({ rewards: [1, 0] })]);
  assertEquals(await rewards, { rewards: [1, 0], scores: [1, 0], functions: {} });
  assertEquals(bodies.length, 3);
  const { query, prompts, labels } = JSON.parse(bodies[2]);
  assertEquals([query[0], prompts[0]], [
    `What is 47 + 38?${SAMPLES[0].completion}`,
    "What is 47 + 38?",
  ]);
  assertEquals(labels, ["85", "85"]);
  const refused = asked([json({ error: "no" }, { status: 400 })]);
  await assertRejects(() => refused.rewards, RemoteError, 'the server answers 400: {"error":"no"}');
  assertEquals(refused.bodies.length, 1);
  const gone = asked([...passing, new TypeError("connection refused")]);
  await assertRejects(() => gone.rewards, RemoteError, "in the last of 3 attempts");
});

Deno.test("answers that the protocol doesn't have are refused by what is wrong with them", async () => {
  const cases: [Response, string][] = [
    [new Response("<html>"), "must be JSON"],
    [json({ reward: [1, 0] }), "rewards is undefined, must be a list of 2 finite numbers"],
    [json({ rewards: [1] }), "rewards is a list of 1, must be a list of 2 finite numbers"],
    [json({ rewards: [1, null] }), "must be a list of 2 finite numbers"],
    [json({ rewards: [1, 0], scores: [1] }), "scores is a list of 1"],
    [json({ rewards: [1, 0], extra_logs: [1] }), "extra_logs is a list, must be an object"],
  ];
  for (const [answer, what] of cases) {
    const error = await assertRejects(() => asked([answer]).rewards, RemoteError);
    assertStringIncludes(error.message, what);
  }
  await assertRejects(
    () => asked([json({ rewards: [1, 0] })], { maxBytes: 5 }).rewards,
    RemoteError,
    "longer than 5 bytes",
  );
});

Deno.test("batches are joined, logs that are no list of numbers are for people", async () => {
  const { rewards } = asked([
    json({ rewards: [1], scores: [0.5], extra_logs: { steps: [3], mean: 1, note: ["x"] } }),
    json({ rewards: [2], extra_logs: null }),
  ], { batchSize: 1 });
  assertEquals(await rewards, {
    ...{ rewards: [1, 2], scores: [0.5, 2] },
    functions: { steps: [3, null] },
  });
});
