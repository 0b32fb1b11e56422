// Buttons that change something: each shows first what it will do.
import { post } from "./data.js";
import { h } from "./dom.js";

const TITLES = { from: (step) => `Rerun from ${step}`, only: (step) => `Rerun only ${step}`, resume: () => "Resume the run", cancel: () => "Cancel the run" };

export async function ask(run, action, step, started) {
  const dialog = document.getElementById("dialog");
  const text = h("pre", { tabindex: "0", role: "status" }, action === "cancel" ? `Run ${run.id} is asked to stop. Its running steps are ended; what is finished stays and can be resumed.` : "Asking what would run …");
  const go = h("button", { type: "button", class: "primary", disabled: action !== "cancel" }, action === "cancel" ? "Cancel the run" : "Start");
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(h("h2", { id: "dialog-title" }, TITLES[action](step)), text, h("div", { class: "buttons" }, go, close));
  if (!dialog.open) dialog.showModal();
  close.focus();
  const body = { run: run.id, action, step: step || null };
  go.addEventListener("click", async () => {
    go.disabled = true;
    try {
      const answer = action === "cancel" ? await post("/api/cancel", { run: run.id }) : await post("/api/start", body);
      if (answer.exit_code) { text.textContent = answer.text || `It ended with ${answer.exit_code}.`; text.classList.add("error"); return; }
      dialog.close();
      started(action);
    } catch (error) { text.textContent = error.message; text.classList.add("error"); }
  });
  if (action === "cancel") return;
  try {
    const plan = await post("/api/plan", body);
    text.textContent = `${plan.text || "(The command said nothing.)"}\n\n$ ${plan.command}`;
    text.classList.toggle("error", plan.exit_code !== 0);
    go.disabled = plan.exit_code !== 0;
    if (plan.exit_code === 0 && dialog.open) go.focus();
  } catch (error) { text.textContent = error.message; text.classList.add("error"); }
}
