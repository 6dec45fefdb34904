/** Makes a worker end when it is told `{ type: "die" }`; must be imported before what it runs. */

let isDying = false;

globalThis.addEventListener("message", (event) => {
  if ((event as MessageEvent<{ type: string }>).data.type !== "die") return;
  event.stopImmediatePropagation();
  isDying = true;
  setTimeout(() => {
    throw new Error("died on purpose");
  });
});

// Whoever else listens would hold it.
globalThis.addEventListener("error", (event) => {
  if (isDying) event.stopImmediatePropagation();
});
