/** `POST /get_reward`: our own client over a socket, the protocol's forms, and what is refused. */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { RemoteError } from "../../src/errors.ts";
import { hashKey, KeyRing } from "../../src/server/api_keys.ts";
import { FAMILIES, problemAt } from "../../src/training/data/families/mod.ts";
import { problemDraft } from "../../src/training/data/rows.ts";
import {
  localRewards,
  PRESETS,
  problemOf,
  remoteRewards,
  type RemoteRewardsOptions,
  type Sample,
} from "../../src/training/reward/mod.ts";
import { withRewardServer } from "./_rewards.ts";
import { ask, fixture, type Json } from "./_support.ts";

/** Right, wrong and broken answers to problems of all families, with and without an opened `<think>`. */
function samplesOfAllFamilies(): Sample[] {
  return FAMILIES.flatMap((family) =>
    [0, 1, 2, 3].flatMap((index) => {
      const problem = problemAt(family, { seed: 5, index, levels: [1, 1], notation: "plain" });
      const { prompt, reference } = problemOf(problemDraft(problem));
      const steps = problem.steps.join("\n");
      const opened = index % 2 === 0;
      const open = opened ? "" : "<think>\n";
      return [
        `${open}${steps}\n</think>\n\n${problem.reply}`,
        `${open}${steps.slice(1)}\n${steps}\n</think>\n\n${problem.reply}`,
        `${open}1 + 1 = 3\n</think>\n\n17`,
        `${open}${steps}`,
        "",
      ].map((completion) => ({ prompt, completion, reference, opened }));
    })
  );
}

const SAMPLES = samplesOfAllFamilies();

Deno.test("our client gets the rewards of /get_reward that are computed in process, by any weights", async () => {
  const weights = { logical_consistency: 2, format: 0.5 };
  const ways = [
    ["", PRESETS.verifiable],
    ["?reward=article", PRESETS.article],
    ["?logical_consistency=2&format=0.5", weights],
  ] as const;
  await withRewardServer(async (url) => {
    for (const [query, weights] of ways) {
      const options = { url: `${url}${query}`, labels: "reference", batchSize: 50 } as const;
      const remote = await remoteRewards(options)(SAMPLES);
      assertEquals(remote, await localRewards({ weights })(SAMPLES), query);
    }
    assert(new Set((await remoteRewards({ url })(SAMPLES)).rewards).size > 2);
  });
});

Deno.test("bare answers as labels are judged as in process, and the server's weights are those of its flag", async () => {
  const bare = SAMPLES.filter(({ reference }) => reference.family === "addition")
    .map((sample) => ({ ...sample, reference: { answer: sample.reference.answer } }));
  await withRewardServer(async (url) => {
    const remote = await remoteRewards({ url, labels: "answer" })(bare);
    const local = await localRewards({ weights: PRESETS.article })(bare);
    assertEquals(remote, local);
    // Without a known solution nothing is efficient or not.
    assertEquals(new Set(remote.functions.efficiency), new Set([null]));
  }, { rewards: PRESETS.article });
});

Deno.test("a request as OpenRLHF sends it: rendered prompts, a BOS in front, numbers among the labels", async () => {
  const { app } = fixture();
  const prompt = "<｜begin▁of▁sentence｜><｜User｜>What is 47 + 38?<｜Assistant｜><think>\n";
  const answer = "47 + 38 = 85\n</think>\n\n85<｜end▁of▁sentence｜>";
  const body = {
    query: [prompt + answer, `<s> ${prompt}${answer}`, `${prompt}7 + 8 = 15\n</think>\n\n15`],
    prompts: [prompt, prompt, prompt],
    labels: ["85", 85, '{"family":"addition","solution":"47 + 38 = 85"}'],
  };
  const scores = [1, 1, 0];
  const answered = await ask(app, "/get_reward", { body });
  assertEquals(answered, {
    ...{ rewards: [1, 1, 0.1], scores },
    extra_logs: { solution_accuracy: scores, reasoning_clarity: [1, 1, 1], format: [1, 1, 1] },
    functions: {
      ...{ logical_consistency: [1, 1, 0.5], solution_accuracy: scores },
      ...{ reasoning_clarity: [1, 1, 1], efficiency: [null, null, 0], format: [1, 1, 1] },
    },
  });
  assertEquals(await ask(app, "/v1/get_reward", { body }), answered);
  const choice = {
    query: ["Which is a metal?<think>\nIron is.\n</think>\n\nB"],
    prompts: ["Which is a metal?"],
    labels: [{
      answer: "B",
      choices: [{ label: "A", text: "oak" }, { label: "B", text: "iron" }],
    }],
  };
  assertEquals((await ask(app, "/get_reward", { body: choice })).rewards, [1]);
});

Deno.test("each answer names the same numbers in extra_logs, since OpenRLHF batches them by the first one's names", async () => {
  const { app } = fixture();
  const names = await Promise.all(["85", "a word"].map(async (label) => {
    const body = {
      query: ["What?<think>1 + 1 = 2</think>85"],
      prompts: ["What?"],
      labels: [label],
    };
    const { extra_logs: logs, functions } = await ask(app, "/get_reward", { body });
    assert(Object.values(logs).flat().every(Number.isFinite), JSON.stringify(logs));
    return { logs: Object.keys(logs), worked: functions.logical_consistency[0] !== null };
  }));
  const logs = ["solution_accuracy", "reasoning_clarity", "format"];
  assertEquals(names, [{ logs, worked: true }, { logs, worked: false }]);
});

Deno.test("wrong requests are refused with 400 and the name of what is wrong", async () => {
  const { app } = fixture();
  const right = { query: ["a b", "a c"], prompts: ["a", "a"], labels: ["1", "2"] };
  const cases: [Json, string, string][] = [
    [{ query: undefined }, "query", "must be a list of 1 to 4096 strings"],
    [{ query: [] }, "query", "must be a list of 1 to 4096 strings"],
    [{ query: "a b" }, "query", "must be a list"],
    [{ query: ["a b", 5] }, "query[1]", "must be a string"],
    [{ prompts: ["a"] }, "prompts", "must be as long as query, which has 2"],
    [{ prompts: ["a", "x"] }, "query[1]", "must be prompts[1] with the answer behind it"],
    [{ labels: undefined }, "labels", "must be a list of right answers"],
    [{ labels: ["1"] }, "labels", "must be as long as query, which has 2"],
    [{ labels: ["1", ""] }, "labels[1]", "must be the right answer"],
    [{ labels: ["1", null] }, "labels[1]", "must be the right answer"],
    [{ labels: ["1", []] }, "labels[1]", "must be the right answer"],
    [{ labels: ["1", {}] }, "labels[1]", "must be the right answer"],
    [{ labels: ['{"answer": 5}', "2"] }, "labels[0].answer", "must be a string"],
    [{ labels: [{ family: "sums" }, "2"] }, "labels[0].family", "must be one of the families"],
    [{ labels: [{ answer: "1", choices: [{ label: "A" }] }, "2"] }, "labels[0].choices[0]", "text"],
  ];
  for (const [fields, param, must] of cases) {
    const { error } = await ask(app, "/get_reward", { body: { ...right, ...fields }, status: 400 });
    assertEquals(error.param, param, error.message);
    assertStringIncludes(error.message, must);
  }
  const queries: [string, string, string][] = [
    ["reward=best", "reward", "must be one of article, verifiable"],
    ["rewards=article", "rewards", "is not known, must be reward or one of logical_consistency,"],
    ["reward=article&format=1", "reward", "must stand alone"],
    ["format=-1", "format", "must be a number from 0 to 1000"],
    ["format=1001", "format", "must be a number from 0 to 1000"],
    ["format=0&efficiency=0", "format", "one must be above"],
    ["efficiency=1", "labels[0]", "efficiency wants a solution"],
  ];
  for (const [query, param, must] of queries) {
    const path = `/get_reward?${query}`;
    const { error } = await ask(app, path, { body: right, status: 400 });
    assertEquals(error.param, param, error.message);
    assertStringIncludes(error.message, must);
  }
});

Deno.test("a server with keys is asked with one, and its refusals are told", async () => {
  const keys = new KeyRing([{ name: "trainer", hash: hashKey("sk-trainer"), priority: 0 }]);
  await withRewardServer(async (url) => {
    const [sample] = SAMPLES;
    const rewards = (options: Partial<RemoteRewardsOptions>) =>
      remoteRewards({ url, labels: "reference", ...options })([sample]);
    const headers = { authorization: "Bearer sk-trainer" };
    assertEquals((await rewards({ headers })).rewards, [1]);
    await assertRejects(() => rewards({}), RemoteError, "the server answers 401");
    await assertRejects(
      () => rewards({ headers, url: `${url}?reward=best` }),
      RemoteError,
      "must be one of article, verifiable",
    );
  }, { keys });
});

Deno.test("judging many long answers lets other requests through", async () => {
  await withRewardServer(async (url) => {
    const line = "123456789012 * 987654321 = 3; ";
    const count = 60;
    const prompts = new Array(count).fill("1 + 1");
    const body = JSON.stringify({
      query: prompts.map((prompt) => `${prompt}<think>${line.repeat(2000)}</think>2`),
      prompts,
      labels: prompts.map(() => "2"),
    });
    let isDone = false;
    const ask = async () => {
      const response = await fetch(url, { method: "POST", body });
      assertEquals((await response.json()).rewards.length, count);
    };
    const whole = Promise.all(Array.from({ length: 4 }, ask)).then(() => {
      isDone = true;
    });
    let answers = 0;
    while (!isDone) {
      const response = await fetch(url.replace("get_reward", "health"));
      assertEquals((await response.json()).status, "ok");
      if (!isDone) answers++;
    }
    await whole;
    // One, where judging takes the whole turn.
    assert(answers >= 5, `${answers} answers meanwhile`);
  });
});
