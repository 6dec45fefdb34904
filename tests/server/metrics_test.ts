import { assertEquals } from "@std/assert";
import { Counter, Histogram, metricsPage } from "../../src/server/metrics.ts";
import { parsePrometheus, valueOf } from "./_prometheus.ts";

Deno.test("counters sum by their labels", () => {
  const counter = new Counter({ name: "x_total", help: "Sums." });
  counter.add(1, { a: "1" });
  counter.add(2, { a: "2" });
  counter.add(3, { a: "1" });
  const page = parsePrometheus(metricsPage([counter.family()], { model: "m" }));
  assertEquals(page.get("x_total")?.type, "counter");
  assertEquals(valueOf(page, { name: "x_total", labels: { a: "1", model: "m" } }), 4);
  assertEquals(valueOf(page, { name: "x_total", labels: { a: "2", model: "m" } }), 2);
});

Deno.test("a histogram's buckets hold what is at most their bound, and add up", () => {
  const histogram = new Histogram({ name: "t_seconds", help: "Times.", bounds: [0.1, 1, 10] });
  for (const value of [0, 0.1, 0.11, 1, 9, 11]) histogram.observe(value);
  histogram.observe(2, 3);
  const page = parsePrometheus(metricsPage([histogram.family()]));
  const buckets = ["0.1", "1", "10", "+Inf"].map((le) =>
    valueOf(page, { name: "t_seconds_bucket", labels: { le } })
  );
  assertEquals(buckets, [2, 4, 8, 9]);
  assertEquals(valueOf(page, { name: "t_seconds_count" }), 9);
  assertEquals(valueOf(page, { name: "t_seconds_sum" }), 0 + 0.1 + 0.11 + 1 + 9 + 11 + 6);
});

Deno.test("labels and helps hold quotes, backslashes and line ends without breaking the page", () => {
  const name = 'a"b\\c\nd} 1\nevil 2';
  const counter = new Counter({ name: "x_total", help: "One\nTwo \\ three." });
  counter.add(1, { name });
  const page = parsePrometheus(metricsPage([counter.family()]));
  assertEquals([...page.keys()], ["x_total"]);
  assertEquals(page.get("x_total")?.samples, [{ name: "x_total", labels: { name }, value: 1 }]);
});
